//! The Auth service: users, roles, and what each may do, as in etcd.
//!
//! All of it is one value in the store, under a key that etcd's API cannot name, so it is replicated, backed up and restored
//! with everything else. A change of it takes a revision of the store, where etcd's takes none.
//!
//! Who has no token is the user of its certificate's name: nobody is let in without a certificate (see `tls`).

use rand::Rng;
use tonic::{Request, Response, Status};

use super::pb::auth_server::Auth;
use super::pb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest,
    AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest, AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse,
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
    AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
};
use super::{Api, fault};

mod caller;
mod gate;
mod needs;
mod passwords;
mod permissions;
mod tokens;
mod users;

pub(super) use caller::Caller;
pub(super) use gate::Gate;
pub(super) use passwords::Passwords;
use tokens::Now;
pub(super) use tokens::TTL as TOKEN_TTL;
use users::Change;

/// Bytes of the secret that tokens are signed with.
const SECRET_BYTES: usize = 32;

/// A service's answer.
type Answer<T> = Result<Response<T>, Status>;

fn secret() -> bytes::Bytes {
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    bytes::Bytes::copy_from_slice(&secret)
}

#[tonic::async_trait]
impl Auth for Api {
    async fn auth_status(&self, request: Request<AuthStatusRequest>) -> Answer<AuthStatusResponse> {
        self.admitted(request).await?;
        let (_, users) = self.users(false).await?;
        let header = self.header_now().await?;
        Ok(Response::new(AuthStatusResponse { header, enabled: users.enabled, auth_revision: users.revision }))
    }

    async fn auth_enable(&self, request: Request<AuthEnableRequest>) -> Answer<AuthEnableResponse> {
        self.admitted(request).await?;
        self.change_users(Change::Enable { secret: secret() }).await?;
        Ok(Response::new(AuthEnableResponse { header: self.header_now().await? }))
    }

    async fn auth_disable(&self, request: Request<AuthDisableRequest>) -> Answer<AuthDisableResponse> {
        self.admitted(request).await?;
        self.change_users(Change::Disable).await?;
        Ok(Response::new(AuthDisableResponse { header: self.header_now().await? }))
    }

    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Answer<AuthenticateResponse> {
        let AuthenticateRequest { name, password } = self.admitted(request).await?;
        let (_, users) = self.users(false).await?;
        if !users.enabled {
            return Err(fault::auth_not_enabled());
        }
        let user = users.user(&name).ok_or_else(fault::auth_failed)?;
        if user.password.is_empty() {
            return Err(fault::no_password_user());
        }
        if !self.passwords.verify(password, user.password.clone()).await? {
            tracing::warn!(user = name, "somebody showed a wrong password to etcd's API");
            return Err(fault::auth_failed());
        }
        let token = tokens::issue(&users, &name, Now::read(), rand::random());
        Ok(Response::new(AuthenticateResponse { header: self.header_now().await?, token }))
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Answer<AuthUserAddResponse> {
        let AuthUserAddRequest { name, password, options } = self.admitted(request).await?;
        let without = options.is_some_and(|options| options.no_password);
        let password = if without { String::new() } else { self.passwords.hash(password).await? };
        self.change_users(Change::AddUser { name, password }).await?;
        Ok(Response::new(AuthUserAddResponse { header: self.header_now().await? }))
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Answer<AuthUserGetResponse> {
        let AuthUserGetRequest { name } = self.admitted(request).await?;
        let (_, users) = self.users(false).await?;
        let roles = users.user(&name).ok_or_else(fault::user_not_found)?.roles.iter().cloned().collect();
        Ok(Response::new(AuthUserGetResponse { header: self.header_now().await?, roles }))
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Answer<AuthUserListResponse> {
        self.admitted(request).await?;
        let (_, users) = self.users(false).await?;
        Ok(Response::new(AuthUserListResponse { header: self.header_now().await?, users: users.names() }))
    }

    async fn user_delete(&self, request: Request<AuthUserDeleteRequest>) -> Answer<AuthUserDeleteResponse> {
        let AuthUserDeleteRequest { name } = self.admitted(request).await?;
        self.change_users(Change::DeleteUser { name }).await?;
        Ok(Response::new(AuthUserDeleteResponse { header: self.header_now().await? }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Answer<AuthUserChangePasswordResponse> {
        let AuthUserChangePasswordRequest { name, password } = self.admitted(request).await?;
        let password = self.passwords.hash(password).await?;
        self.change_users(Change::SetPassword { name, password }).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header: self.header_now().await? }))
    }

    async fn user_grant_role(&self, request: Request<AuthUserGrantRoleRequest>) -> Answer<AuthUserGrantRoleResponse> {
        let AuthUserGrantRoleRequest { user, role } = self.admitted(request).await?;
        self.change_users(Change::GrantRole { user, role }).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header: self.header_now().await? }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Answer<AuthUserRevokeRoleResponse> {
        let AuthUserRevokeRoleRequest { name: user, role } = self.admitted(request).await?;
        self.change_users(Change::RevokeRole { user, role }).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header: self.header_now().await? }))
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Answer<AuthRoleAddResponse> {
        let AuthRoleAddRequest { name } = self.admitted(request).await?;
        self.change_users(Change::AddRole { name }).await?;
        Ok(Response::new(AuthRoleAddResponse { header: self.header_now().await? }))
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Answer<AuthRoleGetResponse> {
        let AuthRoleGetRequest { role } = self.admitted(request).await?;
        let (_, users) = self.users(false).await?;
        let perm = users.role(&role).ok_or_else(fault::role_not_found)?;
        Ok(Response::new(AuthRoleGetResponse { header: self.header_now().await?, perm }))
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Answer<AuthRoleListResponse> {
        self.admitted(request).await?;
        let (_, users) = self.users(false).await?;
        Ok(Response::new(AuthRoleListResponse { header: self.header_now().await?, roles: users.role_names() }))
    }

    async fn role_delete(&self, request: Request<AuthRoleDeleteRequest>) -> Answer<AuthRoleDeleteResponse> {
        let AuthRoleDeleteRequest { role: name } = self.admitted(request).await?;
        self.change_users(Change::DeleteRole { name }).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header: self.header_now().await? }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Answer<AuthRoleGrantPermissionResponse> {
        let AuthRoleGrantPermissionRequest { name: role, perm } = self.admitted(request).await?;
        let permission = perm.ok_or_else(fault::permission_not_given)?;
        self.change_users(Change::GrantPermission { role, permission }).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header: self.header_now().await? }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Answer<AuthRoleRevokePermissionResponse> {
        let AuthRoleRevokePermissionRequest { role, key, range_end: end } = self.admitted(request).await?;
        self.change_users(Change::RevokePermission { role, key, end }).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header: self.header_now().await? }))
    }
}
