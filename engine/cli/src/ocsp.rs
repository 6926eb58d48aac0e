//! The options about OCSP.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sealane_relay::{ConfigError, Endpoint, HttpUrl, OcspMode, OcspOptions, Proxy};

use crate::args::parse_seconds;

/// What `sealane client` has.
#[derive(Args, Debug)]
pub(crate) struct OcspArguments {
    /// Whether the server's certificate may have been revoked: off; staple looks at what the server staples, and demands that
    /// of certificates that promise it; soft asks a responder where nothing good is stapled, and refuses what is revoked; hard
    /// refuses what is not known to be good
    #[arg(long, value_enum, value_name = "MODE", default_value = "staple", help_heading = "Revocation")]
    ocsp: Mode,

    /// Ask about intermediate certificates too
    #[arg(long, help_heading = "Revocation")]
    ocsp_chain: bool,

    /// Ask this responder instead of those that certificates name
    #[arg(long, value_name = "URL", value_parser = parse_url, help_heading = "Revocation")]
    ocsp_url: Option<HttpUrl>,

    /// Ask responders by way of this HTTP proxy [default: http_proxy of the environment, not for hosts in no_proxy]
    #[arg(long, value_name = "URL", value_parser = parse_proxy, help_heading = "Revocation")]
    ocsp_proxy: Option<Endpoint>,

    /// Time for an answer, all responders of a certificate together, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5", help_heading = "Revocation")]
    ocsp_timeout: Duration,

    /// Accept only answers that were made for this very request, which many responders cannot give
    #[arg(long, help_heading = "Revocation")]
    ocsp_nonce: bool,
}

/// What `sealane server` has instead.
#[derive(Args, Debug)]
pub(crate) struct StapleArguments {
    /// Ask an OCSP responder for the status of our certificate, and staple its answer; our chain must contain the issuer
    #[arg(long, help_heading = "Revocation")]
    ocsp_staple: bool,

    /// Ask this responder instead of the one that our certificate names
    #[arg(long, value_name = "URL", value_parser = parse_url, requires = "ocsp_staple", help_heading = "Revocation")]
    ocsp_url: Option<HttpUrl>,

    /// Ask it by way of this HTTP proxy [default: http_proxy of the environment, not for hosts in no_proxy]
    #[arg(long, value_name = "URL", value_parser = parse_proxy, requires = "ocsp_staple", help_heading = "Revocation")]
    ocsp_proxy: Option<Endpoint>,

    /// Time for an answer, in seconds; for the first one clients wait
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5", help_heading = "Revocation")]
    ocsp_timeout: Duration,
}

impl StapleArguments {
    /// What they come to, with the environment; `None`: nothing is stapled.
    ///
    /// # Errors
    /// `http_proxy` is no URL.
    pub(crate) fn options(&self) -> Result<Option<OcspOptions>, ConfigError> {
        if !self.ocsp_staple {
            return Ok(None);
        }
        Ok(Some(OcspOptions {
            mode: OcspMode::Hard,
            url: self.ocsp_url.clone(),
            proxy: proxy(self.ocsp_proxy.as_ref())?,
            timeout: self.ocsp_timeout,
            ..OcspOptions::default()
        }))
    }

    /// Whom a tunnel with these options connects to, which asks these `responders`.
    pub(crate) fn connects_to(&self, responders: &[String]) -> Result<Vec<Endpoint>, ConfigError> {
        let proxy = if self.ocsp_staple { proxy(self.ocsp_proxy.as_ref())? } else { None };
        let responders = responders.iter().filter_map(|url| url.parse().ok()).map(|url: HttpUrl| url.server);
        Ok(proxy.map(|proxy| proxy.server).into_iter().chain(responders).collect())
    }
}

/// The proxy that was named, or the environment's.
fn proxy(named: Option<&Endpoint>) -> Result<Option<Proxy>, ConfigError> {
    match named {
        Some(server) => Ok(Some(Proxy { server: server.clone(), except: Vec::new() })),
        None => Proxy::from_environment(),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Off,
    Staple,
    Soft,
    Hard,
}

impl From<Mode> for OcspMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Off => Self::Off,
            Mode::Staple => Self::Staple,
            Mode::Soft => Self::Soft,
            Mode::Hard => Self::Hard,
        }
    }
}

impl OcspArguments {
    /// What they come to, with the environment.
    ///
    /// # Errors
    /// What does not go together.
    pub(crate) fn options(&self) -> Result<OcspOptions, ConfigError> {
        let mode = OcspMode::from(self.ocsp);
        let asking = [
            ("--ocsp-chain", self.ocsp_chain),
            ("--ocsp-url", self.ocsp_url.is_some()),
            ("--ocsp-proxy", self.ocsp_proxy.is_some()),
            ("--ocsp-nonce", self.ocsp_nonce),
        ];
        if !mode.asks()
            && let Some((option, _)) = asking.iter().find(|(_, is_given)| *is_given)
        {
            return Err(ConfigError(format!(
                "{option} is about asking a responder: give it --ocsp soft or --ocsp hard"
            )));
        }
        let proxy = if mode.asks() { proxy(self.ocsp_proxy.as_ref())? } else { None };
        Ok(OcspOptions {
            mode,
            chain: self.ocsp_chain,
            url: self.ocsp_url.clone(),
            proxy,
            timeout: self.ocsp_timeout,
            nonce: self.ocsp_nonce,
        })
    }
}

/// Whom a tunnel with these options connects to; a host of `*` is one that a certificate names.
pub(crate) fn connects_to(options: &OcspOptions) -> Vec<Endpoint> {
    if !options.mode.asks() {
        return Vec::new();
    }
    let responder = match &options.url {
        Some(url) => url.server.clone(),
        None => Endpoint { host: "*".into(), port: 80 },
    };
    options.proxy.iter().map(|proxy| proxy.server.clone()).chain([responder]).collect()
}

fn parse_url(text: &str) -> Result<HttpUrl, String> {
    text.parse().map_err(|error: ConfigError| error.to_string())
}

fn parse_proxy(text: &str) -> Result<Endpoint, String> {
    let url = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
    parse_url(&url).map(|url| url.server)
}
