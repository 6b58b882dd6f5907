//! Asking over HTTP or HTTPS. Certificates are not checked, as upstream says: a pod is asked by its address.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Version, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{Target, port};

/// Of an answer's body, bytes (upstream's maxRespBodyLength).
const BODY: usize = 10 * 1024;

/// Whether the answer is 200 to 399.
pub async fn ask(action: &HTTPGetAction, target: &Target) -> Result<(), String> {
    let port = port(&action.port, &target.container)?;
    let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.ip.to_string());
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let url = format!("{}://{}:{port}{path}", if secure { "https" } else { "http" }, bracketed(&host));
    let failed = |error: &dyn std::fmt::Display| format!("Get {url:?}: {error}");
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|e| failed(&e))?;
    let request = request(action, &host, port, path).map_err(|e| failed(&e))?;
    let status = if secure {
        let name = ServerName::try_from(host.clone()).map_err(|e| failed(&e))?;
        let config = tls().map_err(|e| failed(&e))?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map_err(|e| failed(&e))?;
        send(stream, request).await
    } else {
        send(tcp, request).await
    };
    let status = status.map_err(|e| failed(&e))?;
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn request(action: &HTTPGetAction, host: &str, port: u16, path: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = Request::get(path).version(Version::HTTP_11);
    let given = action.http_headers.as_deref().unwrap_or_default();
    let has = |name: &str| given.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    if !has("Host") {
        request = request.header(header::HOST, format!("{}:{port}", bracketed(host)));
    }
    if !has("User-Agent") {
        request = request.header(header::USER_AGENT, "kube-probe/1.37");
    }
    if !has("Accept") {
        request = request.header(header::ACCEPT, "*/*");
    }
    request = request.header(header::CONNECTION, "close");
    for header in given {
        request = request.header(&header.name, &header.value);
    }
    request.body(Empty::new())
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<http::StatusCode, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if let Err(error) = Limited::new(response.into_body(), BODY).collect().await {
            tracing::trace!(%error, "the rest of a probe's answer is not read");
        }
        Ok(status)
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        driven = &mut connection => {
            driven?;
            answer.await
        }
    }
}

fn tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Anyone(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// Takes any certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn answers_below_400_are_good() {
        for (line, expected) in [
            ("200 OK", Ok(())),
            ("302 Found", Ok(())),
            ("503 Busy", Err("HTTP probe failed with statuscode: 503".to_owned())),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                stream.write_all(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
                String::from_utf8_lossy(&request[..read]).into_owned()
            });
            let action = HTTPGetAction {
                path: Some("/healthz?x=1".into()),
                port: IntOrString::Int(i32::from(address.port())),
                ..HTTPGetAction::default()
            };
            let target = Target {
                runtime: Arc::new(crate::runtime::fake::Fake::new()),
                id: String::new(),
                ip: address.ip(),
                container: Arc::new(Container::default()),
            };
            assert_eq!(ask(&action, &target).await, expected);
            assert!(served.await.unwrap().starts_with("GET /healthz?x=1 HTTP/1.1\r\n"));
        }
    }
}
