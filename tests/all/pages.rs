//! Man pages and completions (`packaging/pages`): that they say what the program does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::not_run;
use crate::support::process::{have, scratch};
use crate::support::sealane::binary;

fn written() -> PathBuf {
    let directory = scratch("pages");
    sealane_pages::write(&directory).unwrap();
    directory
}

fn help(words: &[&str]) -> String {
    String::from_utf8(Command::new(binary()).args(words).arg("--help").output().unwrap().stdout).unwrap()
}

/// The long options that a help text shows.
fn options(help: &str) -> BTreeSet<String> {
    let shown = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let long =
            line.strip_prefix("--").or_else(|| line.get(4..).filter(|_| line.starts_with('-'))?.strip_prefix("--"))?;
        long.split([' ', '=']).next().map(str::to_string)
    });
    shown.collect()
}

fn commands() -> Vec<String> {
    let help = help(&[]);
    let list = help.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.trim().split(' ').next()).filter(|name| *name != "help");
    let names: Vec<_> = names.map(str::to_string).collect();
    assert!(names.len() > 7, "{names:?}");
    names
}

/// A page as it reads, more or less: `\-` is a hyphen.
fn page(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap().replace("\\-", "-").replace("\\*(Aq", "'")
}

fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let begun =
        page.split_once(&format!("\n.SH {heading}\n")).unwrap_or_else(|| panic!("no section {heading}: {page}")).1;
    begun.split("\n.SH ").next().unwrap()
}

#[test]
fn every_option_that_help_shows_is_on_its_page() {
    let directory = written();
    let mut count = 0;
    for command in commands() {
        let page = page(&directory, &format!("man1/sealane-{command}.1"));
        for option in options(&help(&[&command])) {
            assert!(page.contains(&format!("\\fB--{option}\\fR")), "{command}: --{option}");
            count += 1;
        }
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
            assert!(!section(&page, heading).trim().is_empty(), "{command}: {heading}");
        }
        assert!(!page.contains("Examples:") && !page.contains("Exit status:"), "{command}");
    }
    assert!(count > 150, "{count}");
    let page = page(&directory, "man1/sealane.1");
    for command in commands() {
        assert!(section(&page, "COMMANDS").contains(&format!("sealane-{command}(1)")), "{command}");
    }
    for heading in ["ENVIRONMENT", "SIGNALS", "FILES", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
        assert!(!section(&page, heading).trim().is_empty(), "{heading}");
    }
}

#[test]
fn options_that_the_guides_name_are_there() {
    let known: BTreeSet<String> = commands().iter().flat_map(|command| options(&help(&[command]))).collect();
    // Of dpkg-divert and cargo.
    let others = ["add", "rename", "release"];
    for name in ["quick-start", "tuning", "troubleshooting", "configuration", "mount-helpers"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/{name}.md"));
        let text = fs::read_to_string(file).unwrap();
        let words =
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter_map(|word| word.strip_prefix("--"));
        let mut count = 0;
        for option in words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()) && !others.contains(word))
        {
            assert!(known.contains(option), "{name}: --{option}");
            count += 1;
        }
        assert!(count > 2, "{name}: {count}");
    }
}

/// The keys that a page has from `from` up to `to`.
fn keys<'p>(page: &'p str, from: &str, to: &str) -> BTreeSet<&'p str> {
    let part = page.split_once(&format!("\n{from}\n")).unwrap().1.split_once(&format!("\n{to}\n")).unwrap().0;
    part.lines().filter_map(|line| Some(line.strip_prefix("\\fB")?.split_once("\\fR = \\fI")?.0)).collect()
}

/// Whether the program knows this key at this place: it says what is wrong with a date, and not with the key.
fn is_known(directory: &Path, before: &str, key: &str, behind: &str) -> bool {
    let file = directory.join("key.toml");
    fs::write(&file, format!("{before}{key} = 2026-01-02\n{behind}")).unwrap();
    let out = Command::new(binary()).args(["run", "--explain"]).arg(file).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success(), "{before}{key}: {said}");
    let [is_unknown, is_elsewhere] = ["no key '", "is about the process"].map(|what| said.contains(what));
    let is_of_value = ["true or false", "a string or a number", "the name of a file", "mode is"];
    assert!(is_unknown || is_elsewhere || is_of_value.iter().any(|what| said.contains(what)), "{before}{key}: {said}");
    !is_unknown && !is_elsewhere
}

#[test]
fn the_keys_on_the_page_are_those_that_run_takes() {
    let directory = written();
    let page = page(&directory, "man5/sealane.toml.5");
    let both = keys(&page, ".SS \"In both modes\"", ".SS \"With mode = \"client\"\"");
    let client = keys(&page, ".SS \"With mode = \"client\"\"", ".SS \"With mode = \"server\"\"");
    let server = keys(&page, ".SS \"With mode = \"server\"\"", ".SH ENVIRONMENT");
    let process = keys(&page, ".SH \"KEYS OF THE PROCESS\"", ".SH \"KEYS OF A TUNNEL\"");
    let [of_client, of_server] = ["client", "server"].map(|command| options(&help(&[command])));
    let mut all: BTreeSet<&str> = of_client.iter().chain(&of_server).map(String::as_str).collect();
    for keys in [&both, &client, &server, &process] {
        assert!(keys.len() > 5, "{keys:?}");
        all.extend(keys);
    }
    let is_on = |of: &BTreeSet<&str>, key: &str| both.contains(key) || of.contains(key);
    for key in all {
        assert_eq!(is_known(&directory, "", key, "[tunnels.x]\nmode = \"client\"\n"), process.contains(key), "{key}");
        for (mode, of) in [("client", &client), ("server", &server)] {
            let before =
                if key == "mode" { "[tunnels.x]\n".into() } else { format!("[tunnels.x]\nmode = \"{mode}\"\n") };
            assert_eq!(is_known(&directory, &before, key, ""), is_on(of, key), "{mode}: {key}");
        }
    }
}

#[test]
fn the_example_on_the_page_is_served() {
    let directory = written();
    let page = page(&directory, "man5/sealane.toml.5");
    let (_, example) = section(&page, "EXAMPLE").split_once(".EX\n").unwrap();
    let text: Vec<_> = example.split_once(".EE").unwrap().0.lines().filter(|line| *line != ".sp").collect();
    let file = directory.join("example.toml");
    fs::write(&file, text.join("\n")).unwrap();
    let out = Command::new(binary()).args(["run", "--explain"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("[home]\n    sealane client ") && said.contains("[door]\n    sealane server "), "{said}");
}

#[test]
fn groff_finds_nothing_wrong_with_them() {
    if !have("groff") {
        return not_run("pages::groff_finds_nothing_wrong_with_them", "groff is not there");
    }
    let directory = written();
    let said = |file: &Path| {
        let out = Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8"]).arg(file).output().unwrap();
        assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    let pages = ["man1", "man5"].into_iter().flat_map(|name| fs::read_dir(directory.join(name)).unwrap());
    let pages: Vec<_> = pages.map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 9, "{pages:?}");
    for file in &pages {
        assert_eq!(said(file), "", "{}", file.display());
        // It would have said it.
        let mut text = fs::read_to_string(file).unwrap();
        text.push_str(".nosuchmacro\n");
        fs::write(file, text).unwrap();
        assert!(said(file).contains("nosuchmacro"), "{}", said(file));
    }
}

fn of_shell(shell: &str, script: &str, file: &Path) -> Output {
    Command::new(shell).args(["-c", script]).env("FILE", file).output().unwrap()
}

/// What bash offers behind these words.
fn completed(file: &Path, words: &str) -> BTreeSet<String> {
    let script = format!(
        "set -e; source \"$FILE\"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         [[ $(complete -p sealane) == *' -F _sealane '* ]]; \
         _sealane sealane \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let out = of_shell("bash", &script, file);
    assert!(out.status.success() && out.stderr.is_empty(), "{words}: {out:?}");
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    if !have("bash") {
        return not_run("pages::bash_completes_commands_and_options", "bash is not there");
    }
    let file = written().join("completions/sealane.bash");
    let only = |word: &str| BTreeSet::from([word.to_string()]);
    assert_eq!(completed(&file, "sealane cl"), only("client"));
    assert_eq!(completed(&file, "sealane client --ca-f"), only("--ca-file"));
    assert_eq!(completed(&file, "sealane server --io u"), only("uring"));
    for command in commands() {
        let offered = completed(&file, &format!("sealane {command} --"));
        let shown: BTreeSet<_> = options(&help(&[&command])).iter().map(|option| format!("--{option}")).collect();
        assert_eq!(offered, shown, "{command}: what is hidden is not offered, all else is");
    }
}

#[test]
fn zsh_understands_its_script() {
    if !have("zsh") {
        return not_run("pages::zsh_understands_its_script", "zsh is not there");
    }
    let file = written().join("completions/_sealane");
    // As it loads it: a function of that name, for the command on the first line.
    let script = "fpath=(${FILE:h} $fpath); autoload -Uz compinit && compinit -u -D; [[ $_comps[sealane] == _sealane ]] && zsh -n $FILE";
    let out = of_shell("zsh", script, &file);
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}

#[test]
fn fish_completes_commands_and_options() {
    if !have("fish") {
        return not_run("pages::fish_completes_commands_and_options", "fish is not there");
    }
    let file = written().join("completions/sealane.fish");
    for (words, expected) in [("sealane cl", "client"), ("sealane client --ca-f", "--ca-file")] {
        let out = of_shell("fish", &format!("source $FILE; complete -C '{words}'"), &file);
        let said = String::from_utf8(out.stdout).unwrap();
        let offered: Vec<_> = said.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(offered, [expected], "{words}: {said}");
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}
