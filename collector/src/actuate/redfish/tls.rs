//! TLS to a management controller. Those have self-signed certificates as a
//! rule, so that the public's authorities say nothing of them: the operator
//! names either the certificate's SHA-256 fingerprint or a file of authorities.

use super::error::RedfishError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

/// Whom to believe to be the management controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Who shows the certificate with this SHA-256, and has its key.
    Fingerprint([u8; 32]),
    /// Whose certificate these authorities (a PEM file) vouch for, and names the address.
    Authorities(PathBuf),
}

impl Trust {
    /// Reads a fingerprint as `openssl x509 -fingerprint -sha256` prints it: 64
    /// hexadecimal digits, with or without colons.
    pub fn fingerprint(text: &str) -> Result<Self, RedfishError> {
        let fault = || {
            RedfishError::Address {
            address: text.to_owned(),
            reason: "is no SHA-256 fingerprint; it has 64 hexadecimal digits, with or without colons, as `openssl x509 -noout -fingerprint -sha256` prints it".into(),
        }
        };
        let digits: Vec<u8> = (text.bytes().filter(|b| *b != b':'))
            .map(|b| char::from(b).to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()
            .ok_or_else(fault)?;
        let pairs: Vec<u8> = (digits.chunks_exact(2))
            .map(|pair| pair[0] << 4 | pair[1])
            .collect();
        if digits.len() != 64 {
            return Err(fault());
        }
        pairs.try_into().map(Self::Fingerprint).map_err(|_| fault())
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, String> {
        match self {
            Self::Fingerprint(expected) => Ok(Arc::new(Pinned {
                expected: *expected,
                provider: Arc::clone(provider),
            })),
            Self::Authorities(path) => {
                let fault = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(path).map_err(|e| fault(&e))? {
                    let certificate = certificate.map_err(|e| fault(&e))?;
                    roots.add(certificate).map_err(|e| fault(&e))?;
                }
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                        .build()
                        .map_err(|e| fault(&e))?;
                Ok(verifier)
            }
        }
    }
}

/// Accepts one certificate. Its dates and names do not matter; that the other
/// side has its key does.
#[derive(Debug)]
struct Pinned {
    expected: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown: [u8; 32] = Sha256::digest(end_entity.as_ref()).into();
        if shown == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Puts TLS around connections to `https://` addresses.
#[derive(Debug)]
pub(super) struct TlsConnector {
    config: Arc<ClientConfig>,
}

impl TlsConnector {
    pub(super) fn new(trust: &Trust) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(trust.verifier(&provider)?)
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| ureq::Error::HostNotFound)?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|e| ureq::Error::Other(Box::new(e)))?;
        let mut socket =
            TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Either::B(TlsTransport {
            buffers,
            stream: StreamOwned::new(connection, socket),
        })))
    }
}

/// A connection within TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let plain = "00ff".repeat(16);
        let colons: Vec<&str> = plain
            .as_bytes()
            .chunks(2)
            .map(|c| std::str::from_utf8(c).unwrap())
            .collect();
        let expected = Trust::Fingerprint([0x00, 0xff].repeat(16).try_into().unwrap());
        assert_eq!(Trust::fingerprint(&plain).unwrap(), expected);
        assert_eq!(
            Trust::fingerprint(&colons.join(":").to_uppercase()).unwrap(),
            expected
        );
        for bad in [
            "",
            "00ff",
            &plain[1..],
            &plain.replace('f', "g"),
            &format!("{plain}0"),
            &format!("{plain}00"),
        ] {
            assert!(Trust::fingerprint(bad).is_err(), "{bad}");
        }
    }
}
