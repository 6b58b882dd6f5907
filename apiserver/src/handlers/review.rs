//! Reviews: questions that are asked by creating an object which is answered and not stored.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use k8s_openapi::{
    api::{
        authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo},
        authorization::v1::{
            LocalSubjectAccessReview, NonResourceRule, ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview,
            SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    authn,
    authz::{Attributes, Decision},
    body,
    parts::{self, Parts},
    reply::{self, Answer, Response},
    target::Target,
    token::ISSUER,
    user::User,
};

/// A kind that is only ever created, and never stored.
pub struct Virtual {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Plural.
    pub plural: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Namespaced.
    pub namespaced: bool,
    answer: fn(&Parts, &Arc<User>, &Target, &HeaderMap, &Bytes) -> Answer<Response>,
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All of them.
pub const KINDS: &[Virtual] = &[
    Virtual {
        group: AUTHENTICATION,
        version: "v1",
        plural: "selfsubjectreviews",
        kind: "SelfSubjectReview",
        namespaced: false,
        answer: who_am_i,
    },
    Virtual {
        group: AUTHENTICATION,
        version: "v1",
        plural: "tokenreviews",
        kind: "TokenReview",
        namespaced: false,
        answer: token,
    },
    Virtual {
        group: AUTHORIZATION,
        version: "v1",
        plural: "localsubjectaccessreviews",
        kind: "LocalSubjectAccessReview",
        namespaced: true,
        answer: local_access,
    },
    Virtual {
        group: AUTHORIZATION,
        version: "v1",
        plural: "selfsubjectaccessreviews",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
        answer: own_access,
    },
    Virtual {
        group: AUTHORIZATION,
        version: "v1",
        plural: "selfsubjectrulesreviews",
        kind: "SelfSubjectRulesReview",
        namespaced: false,
        answer: own_rules,
    },
    Virtual {
        group: AUTHORIZATION,
        version: "v1",
        plural: "subjectaccessreviews",
        kind: "SubjectAccessReview",
        namespaced: false,
        answer: access,
    },
];

/// The review that a path means.
pub fn find(target: &Target) -> Option<&'static Virtual> {
    KINDS.iter().find(|v| v.plural == target.resource && v.group == target.group && v.version == target.version)
}

impl Virtual {
    /// Answers.
    pub fn answer(
        &self,
        parts: &Parts,
        user: &Arc<User>,
        target: &Target,
        headers: &HeaderMap,
        bytes: &Bytes,
    ) -> Answer<Response> {
        (self.answer)(parts, user, target, headers, bytes)
    }
}

fn read<T: DeserializeOwned>(headers: &HeaderMap, bytes: &Bytes) -> Answer<T> {
    body::small(headers, bytes)?.ok_or_else(|| Box::new(api::status::bad_request("the body must not be empty")))
}

fn created(review: &impl Serialize) -> Response {
    reply::json(StatusCode::CREATED, review)
}

fn who_am_i(_: &Parts, user: &Arc<User>, _: &Target, _: &HeaderMap, _: &Bytes) -> Answer<Response> {
    let status = Some(SelfSubjectReviewStatus { user_info: Some(info(user)) });
    Ok(created(&SelfSubjectReview { metadata: ObjectMeta::default(), status }))
}

fn info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

fn token(parts: &Parts, _: &Arc<User>, _: &Target, headers: &HeaderMap, bytes: &Bytes) -> Answer<Response> {
    let mut review: TokenReview = read(headers, bytes)?;
    let asked = review.spec.audiences.clone().unwrap_or_default();
    let audiences: Vec<&str> = if asked.is_empty() { vec![ISSUER] } else { asked.iter().map(String::as_str).collect() };
    let now = parts::now().as_second();
    let token = review.spec.token.clone();
    review.status = Some(match authn::token_user(&token, &audiences, &parts.tokens, &parts.cache, now) {
        Ok(user) => TokenReviewStatus {
            authenticated: Some(true),
            user: Some(info(&user)),
            audiences: Some(audiences.iter().map(|a| (*a).to_owned()).collect()),
            error: None,
        },
        Err(error) => TokenReviewStatus { error: Some(error), ..TokenReviewStatus::default() },
    });
    Ok(created(&review))
}

fn own_access(parts: &Parts, user: &Arc<User>, _: &Target, headers: &HeaderMap, bytes: &Bytes) -> Answer<Response> {
    let mut review: SelfSubjectAccessReview = read(headers, bytes)?;
    let spec = SubjectAccessReviewSpec {
        resource_attributes: review.spec.resource_attributes.clone(),
        non_resource_attributes: review.spec.non_resource_attributes.clone(),
        ..SubjectAccessReviewSpec::default()
    };
    review.status = Some(judge(parts, user, &spec)?);
    Ok(created(&review))
}

fn access(parts: &Parts, _: &Arc<User>, _: &Target, headers: &HeaderMap, bytes: &Bytes) -> Answer<Response> {
    let mut review: SubjectAccessReview = read(headers, bytes)?;
    review.status = Some(judge(parts, &subject(&review.spec), &review.spec)?);
    Ok(created(&review))
}

fn local_access(parts: &Parts, _: &Arc<User>, target: &Target, headers: &HeaderMap, bytes: &Bytes) -> Answer<Response> {
    let mut review: LocalSubjectAccessReview = read(headers, bytes)?;
    let namespace = review.spec.resource_attributes.as_ref().and_then(|a| a.namespace.clone()).unwrap_or_default();
    if namespace != target.namespace() {
        let text = "spec.resourceAttributes.namespace must match metadata.namespace";
        return Err(Box::new(api::status::bad_request(text)));
    }
    review.status = Some(judge(parts, &subject(&review.spec), &review.spec)?);
    Ok(created(&review))
}

fn subject(spec: &SubjectAccessReviewSpec) -> User {
    User {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    }
}

fn judge(parts: &Parts, user: &User, spec: &SubjectAccessReviewSpec) -> Answer<SubjectAccessReviewStatus> {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let decision = if let Some(r) = &spec.resource_attributes {
        let (verb, group, resource) = (text(&r.verb), text(&r.group), text(&r.resource));
        let (subresource, namespace, name) = (text(&r.subresource), text(&r.namespace), text(&r.name));
        let what = Attributes {
            verb: &verb,
            group: &group,
            resource: &resource,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
            ..Attributes::default()
        };
        parts.authz.decide(&parts.cache, user, &what)
    } else if let Some(r) = &spec.non_resource_attributes {
        let (verb, path) = (text(&r.verb), text(&r.path));
        let what = Attributes { verb: &verb, path: &path, ..Attributes::default() };
        parts.authz.decide(&parts.cache, user, &what)
    } else {
        let text = "exactly one of resourceAttributes and nonResourceAttributes must be specified";
        return Err(Box::new(api::status::bad_request(text)));
    };
    let (allowed, reason) = match decision {
        Decision::Allow(reason) => (true, reason),
        Decision::Deny(reason) => (false, reason),
    };
    let reason = Some(reason).filter(|r| !r.is_empty());
    Ok(SubjectAccessReviewStatus { allowed, reason, ..SubjectAccessReviewStatus::default() })
}

fn own_rules(parts: &Parts, user: &Arc<User>, _: &Target, headers: &HeaderMap, bytes: &Bytes) -> Answer<Response> {
    let mut review: SelfSubjectRulesReview = read(headers, bytes)?;
    let namespace = review.spec.namespace.clone().unwrap_or_default();
    let mut status = SubjectRulesReviewStatus::default();
    for rule in parts.authz.rules(&parts.cache, user, &namespace) {
        if rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            let rule = NonResourceRule { non_resource_urls: rule.non_resource_urls, verbs: rule.verbs };
            status.non_resource_rules.push(rule);
        } else {
            status.resource_rules.push(ResourceRule {
                api_groups: rule.api_groups,
                resources: rule.resources,
                resource_names: rule.resource_names,
                verbs: rule.verbs,
            });
        }
    }
    review.status = Some(status);
    Ok(created(&review))
}

/// Impersonation headers (`--as`, `--as-group`, `--as-uid`): who is meant, if anybody.
pub fn impersonated(headers: &HeaderMap) -> Option<User> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let name = text("impersonate-user");
    if name.is_empty() {
        return None;
    }
    let groups = headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok());
    let groups: Vec<&str> = groups.collect();
    let mut user = match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) if groups.is_empty() => User::service_account(namespace, account, ""),
        _ => User::new(&name, &groups),
    };
    user.uid = text("impersonate-uid");
    user.extra = BTreeMap::new();
    Some(user)
}
