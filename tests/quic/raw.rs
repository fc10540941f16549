//! Owns a client that speaks QUIC and proves a key, and keeps no other rule.

use std::{net::SocketAddr, sync::Arc};

use quinn::ConnectionError;
use sessionmesh::{
    identity::{NodeKey, tls},
    replica::ids::{NodeId, StartId},
    wire::{self, CloseCode, Frame},
};
use tokio::time::timeout;

use crate::node::{DEADLINE, Node};

pub struct Raw {
    pub id: NodeId,
    _endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
    /// The link's stream, where it was opened.
    streams: Option<(quinn::SendStream, quinn::RecvStream)>,
}

impl Raw {
    pub async fn dial(node: &Node) -> Self {
        Self::dial_as(&NodeKey::generate(), node).await.unwrap()
    }

    pub async fn dial_as(key: &NodeKey, node: &Node) -> Result<Self, ConnectionError> {
        Self::dial_from("127.0.0.1", key, node.place()).await
    }

    /// Dials a node from another address of this machine.
    pub async fn dial_from(
        ip: &str,
        key: &NodeKey,
        place: (NodeId, SocketAddr),
    ) -> Result<Self, ConnectionError> {
        Self::dial_naming(tls::ALPN, ip, key, place).await
    }

    /// Dials a node and names a version of the protocol.
    pub async fn dial_naming(
        alpn: &[u8],
        ip: &str,
        key: &NodeKey,
        (node, address): (NodeId, SocketAddr),
    ) -> Result<Self, ConnectionError> {
        let local = SocketAddr::new(ip.parse().unwrap(), 0);
        let endpoint = quinn::Endpoint::client(local).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls::client_naming(key, node, alpn)));
        let connection = endpoint.connect_with(config, address, "x").unwrap().await?;
        Ok(Self { id: key.node(), _endpoint: endpoint, connection, streams: None })
    }

    /// Opens the link's stream, so that there is a link, and says nothing more; fails if the other side
    /// has had enough.
    pub async fn open(&mut self) {
        if let Ok((mut send, receive)) = self.connection.open_bi().await
            && send.write_all(&open()).await.is_ok()
        {
            self.streams = Some((send, receive));
        }
    }

    /// The code and the reason with which the other side closes the connection.
    pub async fn closed(&self) -> (Option<CloseCode>, String) {
        let error = timeout(DEADLINE, self.connection.closed()).await.expect("it is closed");
        let ConnectionError::ApplicationClosed(close) = error else {
            panic!("closed without a code: {error}");
        };
        let code = u32::try_from(close.error_code.into_inner()).unwrap();
        (CloseCode::from_u32(code), String::from_utf8(close.reason.to_vec()).unwrap())
    }
}

pub fn open() -> Vec<u8> {
    wire::encode(&Frame::Open { start: StartId([5; 8]) }).unwrap()
}
