//! A manual page, section by section.

use std::io;

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// Text or what is to stand as it is.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Block {
    /// A paragraph.
    Text(String),
    /// Lines of a command or a file.
    Literal(Vec<String>),
}

/// What has been written of a page.
#[derive(Default)]
pub(crate) struct Page {
    text: Vec<u8>,
    /// Nothing stands under the last heading yet.
    is_begun: bool,
}

impl Page {
    /// The line that says whose page it is. Without a date: there is none in the sources, and pages are to be the same whenever
    /// they are made.
    pub(crate) fn title(&mut self, name: &str, section: &str) {
        // Roff would leave out an argument that is empty.
        let version = concat!("Sealane ", env!("CARGO_PKG_VERSION"));
        let title = name.to_uppercase();
        let mut roff = Roff::new();
        // Options and names of files are not to be cut in two: groff's macros go by HY, others by nh.
        roff.control("nr", ["HY", "0"]).control("TH", [title.as_str(), section, "\"\"", version, "Sealane"]);
        // Without hyphens lines would have wide gaps.
        self.roff(roff.control("nh", []).control("ad", ["l"]));
    }

    /// What somebody else writes.
    pub(crate) fn with(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        self.is_begun = false;
        write(&mut self.text)
    }

    pub(crate) fn section(&mut self, heading: &str) {
        self.roff(Roff::new().control("SH", [heading]));
        self.is_begun = true;
    }

    pub(crate) fn subsection(&mut self, heading: &str) {
        self.roff(Roff::new().control("SS", [heading]));
        self.is_begun = true;
    }

    /// A line as it is: what is read by programs.
    pub(crate) fn plain(&mut self, text: &str) {
        self.roff(Roff::new().text([roman(text)]));
    }

    pub(crate) fn paragraph(&mut self, text: &str) {
        let mut roff = self.apart();
        self.roff(roff.text(marked(text)));
    }

    pub(crate) fn literal<'l>(&mut self, lines: impl IntoIterator<Item = &'l str>) {
        let mut roff = self.apart();
        roff.control("RS", ["4"]).control("EX", []);
        for line in lines {
            // A line with nothing on it is a warning of groff's.
            match line {
                "" => roff.control("sp", []),
                line => roff.text([roman(line)]),
            };
        }
        self.roff(roff.control("EE", []).control("RE", []));
    }

    pub(crate) fn blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            match block {
                Block::Text(text) => self.paragraph(text),
                Block::Literal(lines) => self.literal(lines.iter().map(String::as_str)),
            }
        }
    }

    /// A term, what it takes, and what is to be said of it, line by line.
    pub(crate) fn term<'l>(&mut self, term: &str, value: Option<&str>, lines: impl IntoIterator<Item = &'l str>) {
        let mut heading = vec![bold(term)];
        heading.extend(value.map(|value| [roman(" = "), italic(value)]).into_iter().flatten());
        let mut roff = Roff::new();
        roff.control("TP", []).text(heading);
        for (number, line) in lines.into_iter().enumerate() {
            if number > 0 {
                roff.control("br", []);
            }
            roff.text(marked(line));
        }
        self.roff(&roff);
    }

    /// The page.
    pub(crate) fn finish(self) -> Vec<u8> {
        // Each part has brought its own, and one is enough.
        let preamble = Roff::new().render();
        let text = String::from_utf8_lossy(&self.text).replace(&preamble, "");
        [preamble, text].concat().into_bytes()
    }

    /// What comes next begins a paragraph; a heading has begun one already.
    fn apart(&self) -> Roff {
        let mut roff = Roff::new();
        if !self.is_begun {
            roff.control("PP", []);
        }
        roff
    }

    fn roff(&mut self, roff: &Roff) {
        self.is_begun = false;
        self.text.extend(roff.render().into_bytes());
    }
}

/// A text whose options and pages stand out.
fn marked(text: &str) -> Vec<Inline> {
    let mut all = Vec::new();
    for (number, word) in text.split(' ').enumerate() {
        if number > 0 {
            all.push(roman(" "));
        }
        let start = word.find(|c: char| !"('".contains(c)).unwrap_or(0);
        let (before, word) = word.split_at(start);
        let length = match word.split_once('(') {
            Some((name, rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() => name.len(),
            _ if word.starts_with("--") => {
                let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(word.len());
                if end > 2 { end } else { 0 }
            }
            _ => 0,
        };
        let (strong, after) = word.split_at(length);
        all.extend((!before.is_empty()).then(|| roman(before)));
        all.extend((!strong.is_empty()).then(|| bold(strong)));
        all.extend((!after.is_empty()).then(|| roman(after)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_pages_stand_out() {
        let all = marked("the key of --cert, as exports(5) (or --tls) has it -- a-b");
        let strong: Vec<_> = all.iter().filter(|inline| matches!(inline, Inline::Bold(_))).cloned().collect();
        assert_eq!(strong, ["--cert", "exports", "--tls"].map(bold));
        let plain = |inline: &Inline| match inline {
            Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.clone(),
            Inline::LineBreak => "\n".into(),
        };
        let joined: String = all.iter().map(plain).collect();
        assert_eq!(joined, "the key of --cert, as exports(5) (or --tls) has it -- a-b");
    }
}
