//! The keys that a configuration file may have, for its manual page (packaging/pages).

use std::any::TypeId;
use std::time::Duration;

use clap::{Arg, ArgAction, CommandFactory};
use sealane_relay::Spin;

use super::{MODE, OF_PROCESS, OWN, is_option};
use crate::args::Cli;

/// What a key takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// Strings in a list; a single one may stand without it.
    List,
    /// A number.
    Number,
    /// A number, or a string where it takes more than digits.
    NumberOrString,
    /// A string.
    String,
}

/// A key as its page has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// As it stands in the file.
    pub name: String,
    /// What `--help` says of it.
    pub help: String,
    /// What it takes.
    pub kind: Kind,
    /// The word for what it takes.
    pub value: String,
    /// The only values, if these are few.
    pub values: Vec<String>,
    /// What it is without being given, as `--help` has it.
    pub default: Option<String>,
    /// Whether it has to be given.
    pub is_required: bool,
}

/// Those of the process, by their names.
#[must_use]
pub fn keys_of_process() -> Vec<Key> {
    let own = OWN.into_iter().filter_map(own_key);
    let mut keys: Vec<_> = keys_of("client", |name| OF_PROCESS.contains(&name)).chain(own).collect();
    keys.sort_by(|one, other| one.name.cmp(&other.name));
    keys
}

/// Those of a tunnel whose `mode` is "client" or "server", in the order of `--help`.
#[must_use]
pub fn keys_of_tunnel(mode: &str) -> Vec<Key> {
    let which = Key {
        value: "MODE".into(),
        values: vec!["client".into(), "server".into()],
        is_required: true,
        ..text(
            MODE,
            "Which end of TLS the tunnel is: the one that NFS clients connect to, or the one before their server",
        )
    };
    [which].into_iter().chain(keys_of(mode, |name| !OF_PROCESS.contains(&name))).collect()
}

/// Of the keys that are no options only these are set to something; the others are tables.
fn own_key(name: &str) -> Option<Key> {
    let help = match name {
        "control-socket" => {
            "Where a process that takes over asks this one for its listening sockets [default: NAME.sock, for NAME.toml, in \
             RUNTIME_DIRECTORY or /run/sealane]"
        }
        "log-file" => "The file that takes the log instead of standard error; opened anew upon SIGUSR1",
        "pid-file" => "Written once all addresses are bound, and removed in the end",
        _ => return None,
    };
    Some(text(name, help))
}

fn text(name: &str, help: &str) -> Key {
    Key {
        name: name.into(),
        help: help.into(),
        kind: Kind::String,
        value: "FILE".into(),
        values: Vec::new(),
        default: None,
        is_required: false,
    }
}

fn keys_of(command: &str, counts: impl Fn(&str) -> bool) -> impl Iterator<Item = Key> {
    let command = Cli::command().find_subcommand(command).cloned().unwrap_or_default();
    let args: Vec<Arg> = command.get_arguments().filter(is_option).cloned().collect();
    args.into_iter().filter_map(|arg| key(&arg)).filter(move |key| counts(&key.name))
}

fn key(arg: &Arg) -> Option<Key> {
    let kind = kind(arg);
    let default = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
    let values = arg.get_possible_values();
    Some(Key {
        name: arg.get_long()?.into(),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        kind,
        value: arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        values: match kind {
            Kind::Boolean => Vec::new(),
            _ => values.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name().into()).collect(),
        },
        default: Some(default).filter(|default| kind != Kind::Boolean && !default.is_empty()),
        is_required: arg.is_required_set(),
    })
}

/// As [`super::Opt`] reads it, and what its option takes.
fn kind(arg: &Arg) -> Kind {
    match arg.get_action() {
        ArgAction::SetTrue => return Kind::Boolean,
        ArgAction::Append => return Kind::List,
        _ => {}
    }
    let parsed = arg.get_value_parser().type_id();
    let is = |types: &[TypeId]| types.iter().any(|one| parsed == *one);
    let is_size = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == "SIZE"));
    if is_size || is(&[TypeId::of::<Spin>()]) {
        Kind::NumberOrString
    } else if is(&[TypeId::of::<Duration>(), TypeId::of::<usize>(), TypeId::of::<u64>(), TypeId::of::<u32>()]) {
        Kind::Number
    } else {
        Kind::String
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn is_taken(mode: &str, key: &Key, value: &str) -> bool {
        let needed = ["--connect", "h:1", "--cert", "c", "--key", "k", "--ocsp-staple"];
        let count = if mode == "server" { 7 } else { 2 };
        let option = format!("--{}={value}", key.name);
        let words = ["sealane", mode].into_iter().chain(needed.into_iter().take(count)).chain([option.as_str()]);
        Cli::try_parse_from(words).is_ok()
    }

    #[test]
    fn a_number_is_what_takes_nothing_else() {
        for mode in ["client", "server"] {
            let of_process = keys_of_process().into_iter().filter(|key| !OWN.contains(&key.name.as_str()));
            let mut numbers = 0;
            for key in keys_of_tunnel(mode).iter().chain(&of_process.collect::<Vec<_>>()) {
                let takes = |value| is_taken(mode, key, value);
                match key.kind {
                    Kind::Number => assert!(takes("2") && !takes("2K") && !takes("off"), "{mode} {}", key.name),
                    Kind::NumberOrString => assert!(takes("2") && (takes("2K") || takes("off")), "{mode} {}", key.name),
                    Kind::Boolean => assert!(!takes("2"), "{mode} {}", key.name),
                    Kind::List | Kind::String => continue,
                }
                numbers += 1;
            }
            assert!(numbers > 20, "{mode}: {numbers}");
        }
    }

    #[test]
    fn every_key_of_the_file_has_a_text() {
        let keys = [keys_of_process(), keys_of_tunnel("client"), keys_of_tunnel("server")].concat();
        for key in &keys {
            assert!(!key.help.is_empty() && (key.kind == Kind::Boolean || !key.value.is_empty()), "{key:?}");
        }
        for name in OF_PROCESS.iter().chain(&OWN).filter(|name| **name != "tunnels") {
            assert!(keys.iter().any(|key| key.name == *name), "{name}");
        }
    }
}
