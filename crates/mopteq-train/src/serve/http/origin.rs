//! Who may ask: programs on the machine, and pages that come from this server.
//!
//! A page from elsewhere can make a browser send requests to the loopback address. If its owner
//! points its name there after it was loaded, the browser even lets it read the answers (DNS
//! rebinding). The name that the browser asked for is in the header Host, so a name that is not
//! this server's is refused.

use std::net::{IpAddr, SocketAddr};

use super::{Head, Method, Response};

/// The names and addresses that this server answers to.
#[derive(Debug)]
pub(crate) struct Hosts {
    listening: IpAddr,
    /// Names from the command line, in lower case.
    names: Vec<String>,
}

impl Hosts {
    /// The names of a server at this address, with further names.
    pub(crate) fn new(address: SocketAddr, names: &[String]) -> Self {
        Self {
            listening: address.ip(),
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        }
    }

    /// Refuses a request for another host, or from a page of another origin.
    pub(crate) fn check(&self, head: &Head) -> Result<(), Response> {
        let Some(authority) = head.header("host") else {
            return Err(Response::error(400, "the request needs one Host header"));
        };
        if !self.is_own(authority) {
            let message = format!(
                "this server does not answer to the host {authority:?}; if that is its name, start it \
                 with --allow-host"
            );
            return Err(Response::error(421, &message));
        }
        let foreign = || Response::error(403, "the request comes from a page of another origin");
        // A user who follows a link from another page to this one sees the page; the other page
        // sees nothing.
        let follows =
            head.method == Method::Get && head.header("sec-fetch-mode") == Some("navigate");
        if head.header("sec-fetch-site") == Some("cross-site") && !follows {
            return Err(foreign());
        }
        let mut origins = head.headers("origin");
        let own = |origin: &str| {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
        };
        match origins.all(own) {
            true => Ok(()),
            false => Err(foreign()),
        }
    }

    /// An address cannot be rebound. So if the server listens on all addresses, any address will
    /// do.
    fn is_own(&self, authority: &str) -> bool {
        let host = host_of(authority).to_ascii_lowercase();
        if self.names.contains(&host) {
            return true;
        }
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) if self.listening.is_unspecified() => !ip.is_unspecified(),
            Ok(ip) => ip == self.listening || (ip.is_loopback() && self.listening.is_loopback()),
            Err(_) => {
                host == "localhost"
                    && (self.listening.is_loopback() || self.listening.is_unspecified())
            }
        }
    }
}

/// The authority without the port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_names_are_answered() {
        let at =
            |ip: &str| Hosts::new(SocketAddr::new(ip.parse().unwrap(), 1), &["Box.lan".into()]);
        let local = at("127.0.0.1");
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:9",
            "[::1]:9",
            "box.lan:7",
        ] {
            assert!(local.is_own(host), "{host}");
        }
        let foreign = [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "127.0.0.1.nip.io:1",
        ];
        for host in foreign {
            assert!(!local.is_own(host), "{host}");
        }
        let all = at("0.0.0.0");
        assert!(all.is_own("192.168.1.9:7878") && all.is_own("localhost") && all.is_own("box.lan"));
        assert!(!all.is_own("evil.example"));
        let one = at("192.168.1.9");
        assert!(
            one.is_own("192.168.1.9") && !one.is_own("192.168.1.8") && !one.is_own("localhost")
        );
    }
}
