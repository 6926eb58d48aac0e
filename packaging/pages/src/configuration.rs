//! The page of the configuration file.

use std::io;

use sealane_cli::{Key, Kind, keys_of_process, keys_of_tunnel};

use crate::page::Page;

/// Serves as the page's example; a test has it read by the program.
const EXAMPLE: &str = include_str!("example.toml");

const DESCRIPTION: [&str; 3] = [
    "A file in TOML that sealane-run(1) is given. Keys of the process stand first; each tunnel is a table of its own, \
     [tunnels.NAME], and there is at least one. All tunnels share the threads and the memory of one process.",
    "Each key, but for control-socket, log-file, pid-file and mode, is an option of sealane-client(1) or sealane-server(1) without its --, and \
     takes what that takes. Where a text names another option, the key of that name is meant.",
    "An unknown key is an error, with its line and column and the nearest known key; so is a value that its option does not \
     take. sealane run --check FILE reads the file and all that it names and says whether the tunnels could start; sealane run \
     --explain FILE says which command line each tunnel is.",
];

const TYPES: [(&str, &str); 4] = [
    ("boolean", "true or false, which is the default."),
    ("list", "Strings in brackets. A single one may stand without them."),
    ("number", "Seconds may have a fraction."),
    (
        "string",
        "In quotes. Sizes in bytes may be numbers, or strings with K, M or G behind the digits: powers of 1024.",
    ),
];

const ENVIRONMENT: [(&str, &str); 3] = [
    ("SEALANE_KEY", "In place of a key of the process: SEALANE_WORKERS of workers, SEALANE_PID_FILE of pid-file."),
    (
        "SEALANE_TUNNEL__KEY",
        "In place of a tunnel's key: SEALANE_HOME__CONNECT of connect in [tunnels.home]. In place of a list stands one string.",
    ),
    ("RUST_LOG", "In place of log-level."),
];

const VARIABLES: &str = "What is no letter or digit in the name of a tunnel or key is _ in that of the variable, and letters are \
                         capitals. A variable with __ in it that is no tunnel's key is an error.";

const FILES: &str = "What sealane@NAME.service serves.";

pub(crate) fn page() -> io::Result<Vec<u8>> {
    let mut page = Page::default();
    page.title("sealane.toml", "5");
    page.section("NAME");
    page.plain("sealane.toml - tunnels of sealane run");
    page.section("SYNOPSIS");
    page.paragraph("/etc/sealane/NAME.toml");
    page.section("DESCRIPTION");
    DESCRIPTION.iter().for_each(|text| page.paragraph(text));
    page.subsection("Types");
    terms(&mut page, &TYPES);
    page.section("KEYS OF THE PROCESS");
    keys(&mut page, &keys_of_process());
    tunnels(&mut page);
    page.section("ENVIRONMENT");
    terms(&mut page, &ENVIRONMENT);
    page.paragraph(VARIABLES);
    page.section("EXAMPLE");
    page.literal(EXAMPLE.lines());
    page.section("FILES");
    terms(&mut page, &[("/etc/sealane/NAME.toml", FILES)]);
    page.section("SEE ALSO");
    page.paragraph("sealane(1), sealane-run(1), sealane-client(1), sealane-server(1)");
    Ok(page.finish())
}

fn terms(page: &mut Page, terms: &[(&str, &str)]) {
    for (term, text) in terms {
        page.term(term, None, [*text]);
    }
}

/// What means the same in both modes, and what each has of its own.
fn tunnels(page: &mut Page) {
    let [client, server] = ["client", "server"].map(keys_of_tunnel);
    let (both, of_client): (Vec<_>, Vec<_>) = client.into_iter().partition(|key| server.contains(key));
    let of_server: Vec<_> = server.into_iter().filter(|key| !both.contains(key)).collect();
    page.section("KEYS OF A TUNNEL");
    page.subsection("In both modes");
    keys(page, &both);
    page.subsection("With mode = \"client\"");
    keys(page, &of_client);
    page.subsection("With mode = \"server\"");
    keys(page, &of_server);
}

fn keys(page: &mut Page, keys: &[Key]) {
    for key in keys {
        let help = format!("{}.", key.help.replace("--", "").trim_end_matches('.'));
        page.term(&key.name, Some(&form(key)), [help.as_str(), kind(key).as_str()]);
    }
}

/// How a value looks.
fn form(key: &Key) -> String {
    match (key.kind, key.values.as_slice()) {
        (Kind::Boolean, _) => "true|false".into(),
        (Kind::List, _) => format!("[\"{}\", ...]", key.value),
        (Kind::Number, _) => key.value.clone(),
        (Kind::NumberOrString, _) => {
            // What is said in capitals stands for a number, or for what is told of it.
            let word = |word: &str| if word.contains(char::is_lowercase) { format!("\"{word}\"") } else { word.into() };
            key.value.split('|').map(word).collect::<Vec<_>>().join("|")
        }
        (Kind::String, []) => format!("\"{}\"", key.value.replace('|', "\"|\"")),
        (Kind::String, values) => format!("\"{}\"", values.join("\"|\"")),
    }
}

/// Its type and default, in a line.
fn kind(key: &Key) -> String {
    let kind = match key.kind {
        Kind::Boolean => "boolean",
        Kind::List => "list of strings",
        Kind::Number => "number",
        Kind::NumberOrString => "number or string",
        Kind::String => "string",
    };
    let default = match &key.default {
        None if key.is_required => "; has to be given".into(),
        None if key.kind == Kind::Boolean => "; default: false".into(),
        None => String::new(),
        // A number without quotes, as it would stand in the file.
        Some(default) if key.kind != Kind::String && default.parse::<f64>().is_ok() => format!("; default: {default}"),
        Some(default) => format!("; default: \"{default}\""),
    };
    format!("({kind}{default})")
}
