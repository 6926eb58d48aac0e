//! The completion scripts.

use clap::Command;
use clap_complete::{Shell, generate};

/// Of each shell, under the name by which it looks for it.
pub(crate) fn scripts() -> Vec<(String, Vec<u8>)> {
    let shells = [(Shell::Bash, "sealane.bash"), (Shell::Zsh, "_sealane"), (Shell::Fish, "sealane.fish")];
    let mut command = visible(&sealane_cli::command());
    let script = |(shell, name)| {
        let mut text = Vec::new();
        generate(shell, &mut command, "sealane", &mut text);
        (format!("completions/{name}"), text)
    };
    shells.map(script).into()
}

/// The command without what `--help` hides: clap_complete would offer that.
fn visible(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let all = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    Command::new(command.get_name().to_string())
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about(about)
        .args(args.cloned())
        .subcommands(all.map(visible))
}
