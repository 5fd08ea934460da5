//! What all producers and consumers of an instance share: where the name servers are, and how patient it is.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::clock::{Clock, SystemClock};
use agena_protocol::frame::SerializeType;

use crate::error::ClientError;

/// Settings of an [`Instance`](crate::Instance). The defaults are RocketMQ's.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Host and port of each name server. All of them should know the same brokers; one that answers is enough.
    pub name_servers: Vec<String>,
    /// The address that client ids and message ids name. Default: the local address of the way to the name server.
    pub client_ip: Option<IpAddr>,
    /// The second part of the client id. Two consumers of a group must not share it, so the default is unique.
    pub instance_name: Option<String>,
    /// The third part of the client id, if any.
    pub unit_name: Option<String>,
    /// How request headers are written. Servers accept both forms. Default: JSON.
    pub header_form: SerializeType,
    /// How long calls other than sends and pulls may take. Default: 3 s.
    pub call_timeout: Duration,
    /// How long making a connection may take. Default: 3 s.
    pub connect_timeout: Duration,
    /// How often the routes of the topics in use are looked up again. Default: 30 s.
    pub route_poll_interval: Duration,
    /// How often brokers are told that this client lives; they forget it after 120 s. Default: 30 s.
    pub heartbeat_interval: Duration,
    /// Time, for tests that turn it by hand.
    pub clock: Arc<dyn Clock>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            client_ip: None,
            instance_name: None,
            unit_name: None,
            header_form: SerializeType::Json,
            call_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(3),
            route_poll_interval: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(30),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

impl ClientConfig {
    /// Defaults, with name servers as RocketMQ writes them: `host:port;host:port`.
    ///
    /// ```
    /// let config = agena_client::ClientConfig::new("10.0.0.1:9876;10.0.0.2:9876");
    /// assert_eq!(config.name_servers.len(), 2);
    /// ```
    #[must_use]
    pub fn new(name_servers: &str) -> Self {
        Self {
            name_servers: parse_addresses(name_servers),
            ..Self::default()
        }
    }

    /// Defaults, with the name servers of the environment variable `NAMESRV_ADDR`, else `127.0.0.1:9876`.
    #[must_use]
    pub fn from_env() -> Self {
        let addresses = std::env::var("NAMESRV_ADDR").unwrap_or_default();
        if addresses.trim().is_empty() {
            Self::new("127.0.0.1:9876")
        } else {
            Self::new(&addresses)
        }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let fault = |setting, reason: String| Err(ClientError::Config { setting, reason });
        if self.name_servers.is_empty() {
            return fault("name_servers", "no address is given".to_owned());
        }
        for address in &self.name_servers {
            let has_port = address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !has_port {
                return fault("name_servers", format!("{address:?} is not host:port"));
            }
        }
        for (setting, wait) in [
            ("call_timeout", self.call_timeout),
            ("connect_timeout", self.connect_timeout),
            ("route_poll_interval", self.route_poll_interval),
            ("heartbeat_interval", self.heartbeat_interval),
        ] {
            if wait.is_zero() {
                return fault(setting, "zero".to_owned());
            }
        }
        Ok(())
    }

    /// The configured address, or the one this machine uses towards the name servers.
    pub(crate) fn local_ip(&self) -> IpAddr {
        self.client_ip
            .or_else(|| self.name_servers.iter().find_map(|it| local_ip_towards(it)))
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// Host and port pairs from a list separated by `;` or `,`.
pub(crate) fn parse_addresses(text: &str) -> Vec<String> {
    text.split([';', ','])
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Connecting a datagram socket sends nothing; it only makes the system choose the route.
fn local_ip_towards(address: &str) -> Option<IpAddr> {
    let target = address.to_socket_addrs().ok()?.next()?;
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_the_original_s_notation() {
        let config = ClientConfig::new(" a:1; b:2,c:3;");
        assert_eq!(config.name_servers, ["a:1", "b:2", "c:3"]);
        assert!(config.check().is_ok());
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let refused = |config: ClientConfig| config.check().unwrap_err().to_string();
        assert!(refused(ClientConfig::new("")).contains("name_servers"));
        assert!(refused(ClientConfig::new("localhost")).contains("\"localhost\" is not host:port"));
        let mut config = ClientConfig::new("a:1");
        config.heartbeat_interval = Duration::ZERO;
        assert!(refused(config).contains("heartbeat_interval"));
    }

    #[test]
    fn the_local_address_is_the_one_towards_the_name_server() {
        assert_eq!(
            ClientConfig::new("127.0.0.1:9").local_ip(),
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        );
    }
}
