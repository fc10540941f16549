//! Owns how two nodes prove their keys to each other: TLS 1.3 with raw public keys (RFC 7250).
//!
//! Must not know who is a member: every Ed25519 key that signs the handshake is let through, and
//! the replica judges it when the peer greets. Invariant: a connection that is established has
//! proven its peer's key, and one that was dialled has proven the key that was expected.

use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    server::{
        AlwaysResolvesServerRawPublicKeys,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};

use super::key::{self, NodeKey};
use crate::replica::ids::NodeId;

/// What both sides name: the version of the protocol.
pub const ALPN: &[u8] = b"sessionmesh/2";
/// What a node of the version before names; it is let in so far that it can be told why no further.
pub const ALPN_BEFORE: &[u8] = b"sessionmesh/1";
/// The name that a dial carries; it is never looked at, as keys are the names.
pub const SERVER_NAME: &str = "sessionmesh";
/// The TLS alert with which a dial ends if the other side knows nothing that this one names:
/// `no_application_protocol` (RFC 7301).
pub const WRONG_PROTOCOL_ALERT: u8 = 120;
/// The TLS alert with which a dial ends if another node answers: `access_denied` (RFC 8446, B.2).
pub const WRONG_KEY_ALERT: u8 = 49;

/// Returns what answers a dial with this key.
pub fn server(key: &NodeKey) -> QuicServerConfig {
    server_naming(key, &[ALPN, ALPN_BEFORE])
}

/// Returns what answers dials as [`server`] does and knows other versions of the protocol.
pub fn server_naming(key: &NodeKey, alpn: &[&[u8]]) -> QuicServerConfig {
    let provider = provider();
    let verifier = Arc::new(RawKey::new(&provider, None));
    let resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(key, &provider)));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // A whole handshake takes a millisecond and proves both keys afresh.
    config.send_tls13_tickets = 0;
    QuicServerConfig::try_from(config).expect("the provider has QUIC's initial suite")
}

/// Returns what dials with this key and takes nobody but `expected` for an answer.
pub fn client(key: &NodeKey, expected: NodeId) -> QuicClientConfig {
    client_naming(key, expected, ALPN)
}

/// Returns what dials as [`client`] does and names another version of the protocol.
pub fn client_naming(key: &NodeKey, expected: NodeId, alpn: &[u8]) -> QuicClientConfig {
    let provider = provider();
    let verifier = Arc::new(RawKey::new(&provider, Some(expected)));
    let resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(key, &provider)));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![alpn.into()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).expect("the provider has QUIC's initial suite")
}

/// Returns the node at the other end of an established connection, as its key has proven it.
pub fn peer_node_id(connection: &quinn::Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?;
    let keys = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key::node_of_spki(keys.first()?)
}

/// Tells whether both sides of an established connection have named this version of the protocol.
pub fn is_of_this_version(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(ALPN))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(key: &NodeKey, provider: &CryptoProvider) -> Arc<CertifiedKey> {
    let private = PrivateKeyDer::Pkcs8(key.pkcs8().to_vec().into());
    let signing = provider.key_provider.load_private_key(private).expect("ring reads its own keys");
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(key::spki(key.node()))], signing))
}

/// Judges the raw key of the other side.
#[derive(Debug)]
struct RawKey {
    expected: Option<NodeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl RawKey {
    fn new(provider: &CryptoProvider, expected: Option<NodeId>) -> Self {
        Self { expected, algorithms: provider.signature_verification_algorithms }
    }

    fn judge(&self, spki: &CertificateDer<'_>) -> Result<(), Error> {
        let node = key::node_of_spki(spki)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.expected {
            Some(expected) if expected != node => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signed, &self.algorithms)
    }
}

/// Refuses TLS 1.2, which is never offered.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken".into()))
}

impl ServerCertVerifier for RawKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_other_than_the_expected_one_is_refused() {
        let [a, b] = [NodeKey::generate().node(), NodeKey::generate().node()];
        let pinned = RawKey::new(&provider(), Some(a));
        assert_eq!(pinned.judge(&CertificateDer::from(key::spki(a))), Ok(()));
        assert_eq!(
            pinned.judge(&CertificateDer::from(key::spki(b))),
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        );
    }

    #[test]
    fn whatever_is_no_ed25519_key_is_refused() {
        let open = RawKey::new(&provider(), None);
        for bytes in [&b""[..], b"0", &[0x30; 44]] {
            assert!(open.judge(&CertificateDer::from(bytes)).is_err());
        }
    }
}
