//! The pages of section 1: the program and each of its commands.

use std::io;

use clap::builder::PossibleValue;
use clap::{Arg, Command};
use clap_mangen::Man;

use crate::page::Page;
use crate::prose::{self, DESCRIPTION};

/// What the program finds in its environment; what each command's own is stands in its help.
pub(crate) const ENVIRONMENT: [(&str, &str); 12] = [
    (
        "RUST_LOG",
        "What is logged, in place of --log-level: a level, or levels of parts, as in info,sealane_relay=debug.",
    ),
    (
        "SEALANE_KEY, SEALANE_TUNNEL__KEY",
        "For sealane-run(1): in place of keys of the configuration file; see sealane.toml(5).",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "Where the host's root certificates are, for clients without --ca-file and --ca-dir, if not where the host has them.",
    ),
    (
        "SSLKEYLOGFILE",
        "The file that takes the secrets of all connections with --allow-key-log. Without that option it is only warned about.",
    ),
    ("http_proxy", "The HTTP proxy for questions to OCSP responders, unless --ocsp-proxy names one."),
    (
        "no_proxy, NO_PROXY",
        "Hosts, or ends of their names, with commas between them, that are asked without it; * is all.",
    ),
    (
        "LISTEN_FDS, LISTEN_PID",
        "Sockets that were passed, as sd_listen_fds(3) has them: they are served in place of addresses to listen on.",
    ),
    ("NOTIFY_SOCKET", "Where READY=1, RELOADING=1, STOPPING=1 and MAINPID= are said, as sd_notify(3) has it."),
    ("WATCHDOG_USEC, WATCHDOG_PID", "Twice in that time WATCHDOG=1 is said as well, as long as all threads are there."),
    (
        "RUNTIME_DIRECTORY",
        "Where the control socket of sealane-run(1) is, if not in /run/sealane; see sealane.toml(5).",
    ),
    ("NO_COLOR", "If it is not empty, sealane-check(1) prints no colours on a terminal."),
    ("PATH", "Where sealane-bench(1) looks for an stunnel to compare with."),
];

const SIGNALS: [(&str, &str); 4] = [
    (
        "SIGHUP",
        "Certificates, keys, CAs and CRLs are read again, for new connections: all of them or none. A configuration file is not.",
    ),
    ("SIGUSR1", "The log file, if there is one, is opened anew."),
    ("SIGUSR2", "The connections are listed in the log."),
    (
        "SIGTERM, SIGINT, SIGQUIT",
        "Nobody is accepted any more, calls under way have the time that --drain says to be answered, and the process ends, with 0; at once upon a second signal.",
    ),
];

const FILES: [(&str, &str); 3] = [
    (
        "/etc/sealane/NAME.toml",
        "What sealane@NAME.service serves, by sealane-run(1); sealane.toml(5) says what may stand in it.",
    ),
    ("/run/sealane", "A directory for pid files and control sockets, which that service makes."),
    ("/etc/stunnel/stunnel.conf", "What is served under the name stunnel if no file is named."),
];

const STATUS: &str = "0 after a signal that ends the process, or when what was asked for is done and well; 1 when it could not be \
                      done; 2 for a wrong command line or configuration file. Each command's page says what that is.";

const NAMES: &str = "Called by the name stunnel, stunnel4, stunnel5 or efs-proxy, as by a link, the program takes the command \
                     line of that one, and its place under mount helpers.";

/// Each page's name below the directory, and the page.
pub(crate) fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = sealane_cli::command().disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    command.build();
    let subcommands: Vec<_> = command.get_subcommands().filter(|one| !one.is_hide_set()).cloned().collect();
    let names: Vec<_> = subcommands.iter().map(page_name).collect();
    let mut pages = vec![("man1/sealane.1".to_string(), of_program(command, &names)?)];
    for subcommand in subcommands {
        pages.push((format!("man1/{}.1", page_name(&subcommand)), of_command(subcommand, &names)?));
    }
    Ok(pages)
}

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_string()
}

fn of_program(command: Command, names: &[String]) -> io::Result<Vec<u8>> {
    let mut page = Page::default();
    let man = begin(&mut page, command.clone())?;
    page.paragraph(NAMES);
    page.with(|out| man.render_options_section(out))?;
    page.with(|out| man.render_subcommands_section(out))?;
    for (heading, terms) in [("ENVIRONMENT", &ENVIRONMENT[..]), ("SIGNALS", &SIGNALS), ("FILES", &FILES)] {
        page.section(heading);
        for (term, text) in terms {
            page.term(term, None, [*text]);
        }
    }
    page.section("EXIT STATUS");
    page.paragraph(STATUS);
    let others = ["sealane.toml(5)", "nfs(5)", "exports(5)", "mount(8)", "stunnel(8)", "systemd.socket(5)"];
    see_also(&mut page, names.iter().map(|name| format!("{name}(1)")).chain(others.map(String::from)));
    Ok(page.finish())
}

fn of_command(command: Command, names: &[String]) -> io::Result<Vec<u8>> {
    let name = page_name(&command);
    let mut page = Page::default();
    let help = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string).unwrap_or_default();
    let man = begin(&mut page, command)?;
    page.with(|out| man.render_options_section(out))?;
    for (heading, blocks) in prose::sections(&help).into_iter().filter(|(heading, _)| *heading != DESCRIPTION) {
        page.section(heading);
        page.blocks(&blocks);
    }
    let others = names.iter().filter(|other| **other != name).map(|name| format!("{name}(1)"));
    see_also(&mut page, ["sealane(1)".into(), "sealane.toml(5)".into()].into_iter().chain(others));
    page.paragraph("The environment, signals and files are the same for all commands: sealane(1) has them.");
    Ok(page.finish())
}

/// Title, name, synopsis and description; what is to be asked for the rest.
fn begin(page: &mut Page, mut command: Command) -> io::Result<Man> {
    page.title(&page_name(&command), "1");
    // clap_mangen would list all options, here as well.
    let usage = command.render_usage().to_string();
    let help = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string).unwrap_or_default();
    let command = command.override_usage(usage.strip_prefix("Usage: ").unwrap_or(&usage).to_string());
    let man = Man::new(command.mut_args(with_values));
    page.with(|out| man.render_name_section(out))?;
    page.with(|out| man.render_synopsis_section(out))?;
    page.with(|out| man.render_description_section(out))?;
    for (_, blocks) in prose::sections(&help).iter().filter(|(heading, _)| *heading == DESCRIPTION) {
        page.blocks(blocks);
    }
    Ok(man)
}

/// Its values in a line, as `--help` has them, and not in a list.
fn with_values(arg: Arg) -> Arg {
    let values = arg.get_possible_values();
    let is_flag = !arg.get_action().takes_values();
    let names: Vec<_> = values.iter().filter(|value| !value.is_hide_set()).map(PossibleValue::get_name).collect();
    if is_flag || names.is_empty() {
        return arg;
    }
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = format!("{help} [possible values: {}]", names.join(", "));
    arg.hide_possible_values(true).help(help)
}

fn see_also(page: &mut Page, pages: impl Iterator<Item = String>) {
    page.section("SEE ALSO");
    page.paragraph(&pages.collect::<Vec<_>>().join(", "));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources(directory: &Path) -> Vec<PathBuf> {
        let all = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        all.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn only_variables_that_the_program_reads_are_on_its_page() {
        let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engine");
        let texts: String = sources(&engine).iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        let names = ENVIRONMENT.iter().flat_map(|(names, _)| names.split(", "));
        // The host's roots are found by a library.
        for name in names.filter(|name| !name.starts_with("SEALANE_")) {
            assert!(texts.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
