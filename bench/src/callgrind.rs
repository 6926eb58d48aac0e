//! Runs a scenario under callgrind and reads what each function has cost.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Copies of the C library take ways that depend on the processor: these settings make them take the plainest one.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// What a function itself has cost, without those that it called.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) instructions: u64,
}

impl Function {
    /// Whether its count says nothing of us: ring's assembly and copies of the C library depend on the host's processor; the
    /// streams of a session are ours, but no part of the engine.
    pub(crate) fn is_excluded(&self) -> bool {
        const PARTS: [&str; 16] = [
            "ring_core_",
            "aesni",
            "aes_hw",
            "gcm",
            "ghash",
            "chacha20",
            "poly1305",
            "memcpy",
            "memmove",
            // Of its curves.
            "nistz256",
            "p256",
            "p384",
            "fe_",
            "ge_",
            "table_select",
            "x25519",
        ];
        let is_rust = self.name.contains("::");
        let is_memory = ["memset", "memcmp"].iter().any(|part| self.name.contains(part));
        let is_far_end = self.name.trim_start_matches('<').starts_with("sealane_bench::session::");
        is_far_end || (!is_rust && (is_memory || PARTS.iter().any(|part| self.name.contains(part))))
    }
}

/// The functions of both runs of the scenario.
pub(crate) fn functions(name: &str) -> Result<Vec<Function>> {
    // Several at a time have each their own.
    let out = format!("sealane-icount-{}-{}", std::process::id(), name.replace('/', "-"));
    let out = std::env::temp_dir().join(out);
    let program = std::env::current_exe().context("this program's path")?;
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--compress-strings=no", "--compress-pos=no"])
        .arg("--toggle-collect=*sealane_bench*measured*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(&program)
        .args(["run", name])
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("valgrind (the Debian package of that name)")?;
    if !status.status.success() {
        bail!("{name} failed under valgrind:\n{}", String::from_utf8_lossy(&status.stderr));
    }
    let text = std::fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    std::fs::remove_file(&out).ok();
    Ok(parse(&text))
}

/// Sums the lines `POSITION COST` behind each `fn=`. The line behind `calls=` is the cost of what was called.
fn parse(text: &str) -> Vec<Function> {
    let mut costs: HashMap<&str, u64> = HashMap::new();
    let (mut current, mut is_call) = ("", false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            current = name;
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) && !std::mem::take(&mut is_call) {
            let cost = line.split_ascii_whitespace().nth(1).and_then(|cost| cost.parse().ok()).unwrap_or(0);
            *costs.entry(current).or_default() += cost;
        }
    }
    costs.into_iter().map(|(name, instructions)| Function { name: name.into(), instructions }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_called_is_not_counted_twice() {
        let text = "positions: line\nevents: Ir\nfn=ours::outer\n10 5\ncfn=ours::inner\ncalls=2 7\n11 100\n12 3\n\
            fn=ours::inner\n7 100\nfn=ring_core_0_17_14__gcm_init\n1 9\n";
        let functions = parse(text);
        let cost =
            |name: &str| functions.iter().find(|function| function.name == name).map(|function| function.instructions);
        assert_eq!((cost("ours::outer"), cost("ours::inner")), (Some(8), Some(100)));
        let excluded: Vec<&str> = functions.iter().filter(|f| f.is_excluded()).map(|f| f.name.as_str()).collect();
        assert_eq!(excluded, ["ring_core_0_17_14__gcm_init"]);
    }
}
