//! What `--help` says behind the options, cut into the sections of a page.

use crate::page::Block;

/// How a section begins in `--help`, and what it is called on a page.
const HEADINGS: [(&str, &str); 3] =
    [("Examples:", EXAMPLES), ("Environment:", "ENVIRONMENT"), ("Exit status:", "EXIT STATUS")];
const EXAMPLES: &str = "EXAMPLES";
/// What belongs to the description.
pub(crate) const DESCRIPTION: &str = "DESCRIPTION";

/// The sections of `text`, with what stands in each. What stands before the first one is of the description.
pub(crate) fn sections(text: &str) -> Vec<(&'static str, Vec<Block>)> {
    let mut sections = vec![(DESCRIPTION, Vec::new())];
    let mut is_new = true;
    for line in text.lines() {
        let begun = HEADINGS.iter().find_map(|(begin, name)| Some((*name, line.strip_prefix(begin)?)));
        let line = match begun {
            Some((name, rest)) => {
                sections.push((name, Vec::new()));
                is_new = true;
                rest.trim_start()
            }
            None => line,
        };
        let Some((name, blocks)) = sections.last_mut() else { continue };
        add(blocks, line, is_literal(name, line), is_new);
        is_new = line.is_empty();
    }
    for (_, blocks) in &mut sections {
        blocks.iter_mut().for_each(tidy);
    }
    sections.retain(|(_, blocks)| !blocks.is_empty());
    sections
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Among examples a text may be indented, too, and is indented less.
fn is_literal(section: &str, line: &str) -> bool {
    match (section, indent(line)) {
        (_, 0) => false,
        (EXAMPLES, 1..6) => line.trim_start().starts_with("sealane "),
        _ => true,
    }
}

fn add(blocks: &mut Vec<Block>, line: &str, is_literal: bool, is_new: bool) {
    match blocks.last_mut() {
        // Within a file lines may be empty; behind it they are taken away again.
        Some(Block::Literal(lines)) if is_literal || line.is_empty() => lines.push(line.into()),
        Some(Block::Text(text)) if !is_literal && !is_new => {
            text.push(' ');
            text.push_str(line.trim());
        }
        _ if line.is_empty() => {}
        _ if is_literal => blocks.push(Block::Literal(vec![line.into()])),
        _ => blocks.push(Block::Text(line.trim().into())),
    }
}

/// No empty lines in the end, and as far left as it goes.
fn tidy(block: &mut Block) {
    match block {
        Block::Literal(lines) => {
            while lines.last().is_some_and(String::is_empty) {
                lines.pop();
            }
            let least = lines.iter().filter(|line| !line.is_empty()).map(|line| indent(line)).min().unwrap_or(0);
            for line in lines {
                *line = line.chars().skip(least).collect();
            }
        }
        Block::Text(text) => text.truncate(text.trim_end().len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_help_says_becomes_sections() {
        let text = "It is read:\nonce.\n\n  [a]\n\n  b = 1\n\nEnvironment: A, and\nB.\n\nExamples:\n  For all,\n  and others:\n      sealane x \\\n          --y\n\n  One more:\n  \
                    sealane z\n\nExit status: 0.";
        let literal = |lines: &[&str]| Block::Literal(lines.iter().map(ToString::to_string).collect());
        let text_of = |text: &str| Block::Text(text.into());
        let expected = vec![
            (DESCRIPTION, vec![text_of("It is read: once."), literal(&["[a]", "", "b = 1"])]),
            ("ENVIRONMENT", vec![text_of("A, and B.")]),
            (
                EXAMPLES,
                vec![
                    text_of("For all, and others:"),
                    literal(&["sealane x \\", "    --y"]),
                    text_of("One more:"),
                    literal(&["sealane z"]),
                ],
            ),
            ("EXIT STATUS", vec![text_of("0.")]),
        ];
        assert_eq!(sections(text), expected);
    }
}
