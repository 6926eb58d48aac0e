//! `sealane-pages`: what it writes, and what it says when it cannot.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn it_writes_all_pages_or_says_in_one_line_why_not() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pages-{}", std::process::id()));
    let file = directory.join("man1/sealane.1");
    let run = |words: &[&Path]| {
        let out = Command::new(env!("CARGO_BIN_EXE_sealane-pages")).args(words).output().unwrap();
        assert!(out.stdout.is_empty());
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(run(&[&directory]), (Some(0), String::new()));
    for name in [
        "man1/sealane.1",
        "man1/sealane-client.1",
        "man1/sealane-efs-proxy.1",
        "man5/sealane.toml.5",
        "completions/sealane.bash",
        "completions/_sealane",
        "completions/sealane.fish",
    ] {
        assert!(fs::metadata(directory.join(name)).unwrap().len() > 1000, "{name}");
    }
    // A file is no directory, for root neither.
    let below = file.join("below");
    for (words, status, why) in [
        (&[][..], 2, "usage: sealane-pages DIR"),
        (&[&*directory, &*directory], 2, "usage: sealane-pages DIR"),
        (&[Path::new("--help")], 2, "usage: sealane-pages DIR"),
        (&[&*below], 1, "man1/sealane.1/below/man1/sealane.1: Not a directory"),
    ] {
        let (code, said) = run(words);
        assert!(code == Some(status) && said.contains(why), "{words:?}: {code:?} {said}");
        assert!(said.starts_with("sealane-pages: ") && said.lines().count() == 1, "{said}");
    }
    fs::remove_dir_all(directory).unwrap();
}
