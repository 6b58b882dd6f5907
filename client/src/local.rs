//! A connection that is a function call: the API server's own service under an ordinary client.

use http::{Request, Response};
use kube::{Client, client::Body};
use tower::{BoxError, Service, ServiceExt};

/// A client whose requests go to `service` in this process. `body` makes the service's request body out of the client's;
/// for axum that is `axum::body::Body::new`.
///
/// Must be called inside a runtime. The service must accept many requests at once: it is cloned into no task, but its
/// futures run concurrently.
pub fn client<S, Q, R>(service: S, body: impl Fn(Body) -> Q + Send + 'static) -> Client
where
    S: Service<Request<Q>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    Q: 'static,
    R: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    Client::new(service.map_request(move |request: Request<Body>| request.map(&body)), "default")
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;

    use super::*;

    #[tokio::test]
    async fn a_request_reaches_the_service_and_its_answer_the_caller() {
        let service = tower::service_fn(async |request: Request<http_body_util::combinators::UnsyncBoxBody<_, _>>| {
            let (parts, body) = request.into_parts();
            assert_eq!(parts.uri.path(), "/api/v1/namespaces/web/configmaps");
            let sent: ConfigMap = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap();
            let answer = serde_json::to_vec(&sent).unwrap();
            Ok::<_, kube::Error>(Response::builder().status(201).body(Full::new(bytes::Bytes::from(answer))).unwrap())
        });
        let client = client(service, |body: Body| body.boxed_unsync());
        let mut map = ConfigMap::default();
        map.metadata.name = Some("settings".into());
        let made = Api::namespaced(client, "web").create(&kube::api::PostParams::default(), &map).await.unwrap();
        assert_eq!(made, map);
    }
}
