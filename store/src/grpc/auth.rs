//! The Auth service: there are no users. Who may do what is decided by client certificates, at the door.

use tonic::{Request, Response, Status};

use super::pb::auth_server::Auth;
use super::pb::{AuthRequest, AuthResponse, AuthStatusRequest, AuthStatusResponse};
use super::{Api, fault};

type Answer = Result<Response<AuthResponse>, Status>;

#[tonic::async_trait]
impl Auth for Api {
    async fn auth_status(&self, _: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        let header = self.header_now().await?;
        // As in an etcd where authentication was never enabled.
        Ok(Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
    }

    async fn auth_enable(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn auth_disable(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn authenticate(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn user_add(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn user_get(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn user_list(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn user_delete(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn user_change_password(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn user_grant_role(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn user_revoke_role(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn role_add(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn role_get(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn role_list(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn role_delete(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn role_grant_permission(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }

    async fn role_revoke_permission(&self, _: Request<AuthRequest>) -> Answer {
        Err(fault::auth_not_enabled())
    }
}
