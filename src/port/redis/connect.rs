//! How a connection to Redis comes about: one server, the master that Sentinels name, or a cluster.

use crate::policy::{Redis, RedisAddress, RedisTls, Servers};
use crate::secret::SecretBytes;
use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    RedisResult, TlsCertificates, TlsMode, Value,
};
use std::path::Path;
use std::time::Duration;

/// Commands that wait for a place in a connection's buffer do so in their own time; this many have one.
const BUFFER: usize = 1024;

/// A connection that many requests use at once. Cheap to clone.
#[derive(Clone)]
pub(super) enum Connection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To all nodes of a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn run(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => connection.send_packed_command(command).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

/// Makes connections.
pub(super) enum Connector {
    Single(Box<Client>),
    Sentinel(Box<SentinelClient>),
    Cluster(Box<ClusterClient>),
    /// Cannot be made; says why.
    Never(String),
}

impl Connector {
    /// Reads the certificates; connects to nothing.
    pub(super) fn new(policy: &Redis) -> Self {
        Self::build(policy).unwrap_or_else(Self::Never)
    }

    fn build(policy: &Redis) -> Result<Self, String> {
        let password = text(policy.password.as_ref())?;
        let certificates = policy.tls.as_ref().map(certificates).transpose()?;
        let failed = |error: redis::RedisError| error.to_string();
        let login = |database: u16| {
            let mut login = RedisConnectionInfo::default().set_db(i64::from(database));
            if let Some(user) = &policy.username {
                login = login.set_username(user);
            }
            if let Some(password) = password {
                login = login.set_password(password);
            }
            login
        };
        match &policy.servers {
            Servers::Single { address, database } => {
                let address = place(address, certificates.is_some());
                let info = address.into_connection_info().map_err(failed)?.set_redis_settings(login(*database));
                let client = match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates),
                    None => Client::open(info),
                };
                client.map(|client| Self::Single(Box::new(client))).map_err(failed)
            }
            Servers::Sentinel { sentinels, master, database } => {
                let addresses: Vec<_> =
                    sentinels.iter().map(|address| place(address, certificates.is_some())).collect();
                let mut builder = SentinelClientBuilder::new(addresses, &**master, SentinelServerType::Master)
                    .map_err(failed)?
                    .set_client_to_redis_db(i64::from(*database));
                if let Some(user) = &policy.username {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if let Some(user) = &policy.sentinel_username {
                    builder = builder.set_client_to_sentinel_username(user);
                }
                if let Some(password) = text(policy.sentinel_password.as_ref())? {
                    builder = builder.set_client_to_sentinel_password(password);
                }
                if let Some(certificates) = certificates {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(certificates);
                }
                builder.build().map(|client| Self::Sentinel(Box::new(client))).map_err(failed)
            }
            Servers::Cluster { nodes } => {
                let nodes = nodes.iter().map(|address| place(address, certificates.is_some()));
                let mut builder = ClusterClientBuilder::new(nodes)
                    .connection_timeout(policy.connect_timeout)
                    .response_timeout(policy.timeout)
                    // A node that moved is asked again at once; what takes longer is the breaker's.
                    .retries(2)
                    .min_retry_wait(5)
                    .max_retry_wait(50);
                if let Some(user) = &policy.username {
                    builder = builder.username(user);
                }
                if let Some(password) = password {
                    builder = builder.password(password);
                }
                if let Some(certificates) = certificates {
                    builder = builder.tls(TlsMode::Secure).certs(certificates);
                }
                builder.build().map(|client| Self::Cluster(Box::new(client))).map_err(failed)
            }
        }
    }

    /// One attempt. Its driver runs on the caller's runtime.
    pub(super) async fn connect(&mut self, within: Duration) -> Result<Connection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(within))
            // Every command has a deadline of its own.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(BUFFER);
        let connecting = async {
            match self {
                Self::Single(client) => {
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Single)
                }
                Self::Sentinel(client) => {
                    client.get_async_connection_with_config(&config).await.map(Connection::Single)
                }
                Self::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
                Self::Never(why) => return Err(why.clone()),
            }
            .map_err(|error| error.to_string())
        };
        tokio::time::timeout(within, connecting).await.unwrap_or_else(|_| Err("no connection in time".into()))
    }
}

fn place(address: &RedisAddress, secure: bool) -> ConnectionAddr {
    match address {
        RedisAddress::Host(host, port) if secure => {
            ConnectionAddr::TcpTls { host: host.to_string(), port: *port, insecure: false, tls_params: None }
        }
        RedisAddress::Host(host, port) => ConnectionAddr::Tcp(host.to_string(), *port),
        RedisAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
    }
}

fn text(secret: Option<&Result<SecretBytes, Box<str>>>) -> Result<Option<&str>, String> {
    match secret {
        None => Ok(None),
        Some(Err(missing)) => Err(missing.to_string()),
        Some(Ok(bytes)) => std::str::from_utf8(bytes.expose()).map(Some).map_err(|_| "a password is not text".into()),
    }
}

fn certificates(tls: &RedisTls) -> Result<TlsCertificates, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let client_tls = match &tls.pair {
        Some((certificate, key)) => Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? }),
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert: tls.ca.as_deref().map(read).transpose()? })
}
