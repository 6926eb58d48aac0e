//! A comparison, as short as can be: that every part of one still works together. What it measures in a fifth of a second
//! is not looked at.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

const SUBJECTS: [&str; 4] = ["direct", "relay", "uring", "epoll"];
const WORKS: [&str; 2] = ["read", "getattr-alone"];

/// The release build that tests use, or the one beside this test's own program.
fn sealane() -> Option<PathBuf> {
    let given = std::env::var_os("SEALANE").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_BIN_EXE_sealane-perf")).with_file_name("sealane");
    Some(given.unwrap_or_else(beside)).filter(|program| program.exists())
}

/// As the other tests note it for tests/run.
fn not_run(why: &str) -> Result<()> {
    eprintln!("NOT RUN a_comparison_measures_every_subject_and_writes_it_down: {why}");
    if let Some(file) = std::env::var_os("SEALANE_NOT_RUN") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
        writeln!(file, "a_comparison_measures_every_subject_and_writes_it_down: {why}")?;
    }
    Ok(())
}

#[test]
fn a_comparison_measures_every_subject_and_writes_it_down() -> Result<()> {
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self")?) == 0;
    let Some(sealane) = sealane().filter(|_| is_root) else {
        return not_run("needs root and a build of sealane");
    };
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("comparison");
    let _ = fs::remove_dir_all(&out);
    let output = Command::new(env!("CARGO_BIN_EXE_sealane-perf"))
        .args(["compare", "--tls", "1.3", "--rounds", "1", "--seconds", "0.2", "--foreign-max", "9"])
        .args(["--subjects", &SUBJECTS.join(","), "--works", &WORKS.join(",")])
        .arg("--sealane")
        .arg(&sealane)
        .arg("--out")
        .arg(&out)
        .output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");

    let raw = fs::read_to_string(out.join("raw.csv"))?;
    let mut lines = raw.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().context("an empty table")?;
    let rows: Vec<Vec<&str>> = lines.collect();
    let field = |row: &Vec<&str>, name: &str| -> Result<String> {
        let at = head.iter().position(|field| *field == name).with_context(|| format!("no field {name}: {raw}"))?;
        Ok(row.get(at).context("a short row")?.to_string())
    };
    assert_eq!(rows.len(), SUBJECTS.len() * WORKS.len(), "{raw}");
    for row in &rows {
        assert_eq!((field(row, "accepted")?.as_str(), field(row, "end")?.as_str()), ("1", "clean"), "{raw}");
        let number = |name| -> Result<f64> { Ok(field(row, name)?.parse()?) };
        assert!(number("ops")? > 0.0 && number("p50_us")? > 0.0, "{raw}");
        // There is no process between the load and its server.
        assert_eq!(number("subject_cpu_s")? > 0.0, field(row, "subject")? != "direct", "{raw}");
    }

    let (readme, summary) = (fs::read_to_string(out.join("README.md"))?, fs::read_to_string(out.join("summary.md"))?);
    for wanted in
        ["## read, TLS 1.3", "## getattr-alone, TLS 1.3", "READ CPU to relay + AEAD", "READ system calls per MiB"]
    {
        assert!(summary.contains(wanted), "no {wanted:?}: {summary}");
    }
    assert!(readme.contains("sealane client --listen"), "{readme}");
    for work in WORKS {
        for plot in ["cpu", "latency", "rate"] {
            let path = out.join(format!("tls13-{work}-{plot}.svg"));
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            assert!(["uring", "epoll"].iter().all(|subject| text.contains(subject)), "{}", path.display());
        }
    }
    Ok(())
}

#[test]
fn a_subject_that_does_not_exist_is_refused_with_those_that_do() -> Result<()> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sealane-perf")).args(["compare", "--subjects", "stunell"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("stunell") && said.contains("stunnel"), "{said}");
    Ok(())
}
