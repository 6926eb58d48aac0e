//! The file that stunnel and efs-proxy share, as it is written: sections, keys, values, and where each stands.

use std::fmt;

/// A place in a file, both from 1.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(crate) line: usize,
    /// In characters.
    pub(crate) column: usize,
}

impl Place {
    /// Of the character that begins at `at`.
    pub(crate) fn of(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        Self { line: before.matches('\n').count() + 1, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {what}")]
pub(crate) struct Wrong {
    pub(crate) place: Place,
    pub(crate) what: String,
}

/// A line `key = value`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Place,
    /// May be empty.
    pub(crate) value: String,
    pub(crate) value_at: Place,
}

/// A line `[name]`, and what follows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) at: Place,
    pub(crate) entries: Vec<Entry>,
}

/// A whole file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Lines {
    /// What stands before the first section.
    pub(crate) global: Vec<Entry>,
    pub(crate) sections: Vec<Section>,
}

/// What may stand before the first line of a file in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

impl Lines {
    /// Reads a file: `;` and `#` begin comments of whole lines, blanks around anything mean nothing, the first `=` ends a key.
    ///
    /// # Errors
    /// The first line that is none of these.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Wrong> {
        let text = std::str::from_utf8(text).map_err(|error| {
            let good = String::from_utf8_lossy(text.get(..error.valid_up_to()).unwrap_or_default()).into_owned();
            Wrong { place: Place::of(&good, good.len()), what: "a byte that is not UTF-8".into() }
        })?;
        let mut lines = Self::default();
        for (index, written) in text.trim_start_matches(BYTE_ORDER_MARK).split('\n').enumerate() {
            lines.take(Line { number: index + 1, written })?;
        }
        Ok(lines)
    }

    fn take(&mut self, line: Line<'_>) -> Result<(), Wrong> {
        let text = line.written.trim();
        if text.is_empty() || text.starts_with([';', '#']) {
            return Ok(());
        }
        if let Some(rest) = text.strip_prefix('[') {
            let wrong = || line.wrong(text, "a section begins with [name]");
            let name = rest.strip_suffix(']').map(str::trim).filter(|name| !name.is_empty()).ok_or_else(wrong)?;
            self.sections.push(Section { name: name.into(), at: line.place(text), entries: Vec::new() });
            return Ok(());
        }
        let missing = || line.wrong(text, "neither 'key = value' nor [section] nor a comment (; or #)");
        let (key, value) = text.split_once('=').ok_or_else(missing)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(line.wrong(text, "no key before '='"));
        }
        let (key_at, value_at) = (line.place(key), line.place(value));
        let entry = Entry { key: key.into(), key_at, value: value.into(), value_at };
        match self.sections.last_mut() {
            Some(section) => section.entries.push(entry),
            None => self.global.push(entry),
        }
        Ok(())
    }
}

/// A line as it is written.
struct Line<'t> {
    number: usize,
    written: &'t str,
}

impl Line<'_> {
    /// Where `part` of this line begins.
    fn place(&self, part: &str) -> Place {
        let at = (part.as_ptr() as usize).saturating_sub(self.written.as_ptr() as usize);
        let before = self.written.get(..at).unwrap_or_default();
        Place { line: self.number, column: before.chars().count() + 1 }
    }

    fn wrong(&self, part: &str, what: &str) -> Wrong {
        Wrong { place: self.place(part), what: what.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(entries: &[Entry]) -> Vec<(&str, &str)> {
        entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect()
    }

    #[test]
    fn a_file_is_read_as_it_is_meant() {
        let text = "\u{feff}; a comment\r\n # another\r\nfoo = a = b \r\n\n[ one ]\n\tpid=\nx =y;z\n[two]\nlast = 1";
        let lines = Lines::parse(text.as_bytes()).unwrap();
        assert_eq!(keys(&lines.global), [("foo", "a = b")]);
        let sections: Vec<_> = lines.sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(sections, ["one", "two"]);
        assert_eq!(keys(&lines.sections[0].entries), [("pid", ""), ("x", "y;z")]);
        assert_eq!(keys(&lines.sections[1].entries), [("last", "1")]);
        assert_eq!(lines.sections[0].at, Place { line: 5, column: 1 });
        let Entry { key_at, value_at, .. } = lines.sections[0].entries[1];
        assert_eq!((key_at, value_at), (Place { line: 7, column: 1 }, Place { line: 7, column: 4 }));
        assert_eq!(Lines::parse(b"").unwrap(), Lines::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, place, what) in [
            (&b"a = 1\n  nonsense"[..], "2:3", "neither 'key = value'"),
            (b"[one", "1:1", "[name]"),
            (b"a=1\n[]", "2:1", "[name]"),
            (b" = x", "1:2", "no key"),
            (b"a = \xc3\xa4\nb = \xff", "2:5", "not UTF-8"),
        ] {
            let wrong = Lines::parse(text).unwrap_err();
            assert!(wrong.place.to_string() == place && wrong.what.contains(what), "{wrong}");
        }
    }
}
