//! Who may do what: the roles of tokens, and the one that each route asks for.
//!
//! `read` sees (status, queries, records, dead letters, figures), `write` puts in (records, and texts for served
//! models, which cost computing time), `admin` changes what is there (redrive, discard, reload) and may do all of it.
//! `read` and `write` do not contain each other: who sends records need not see any. A token may have both.

use std::fmt;

use axum::http::Method;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sees everything.
    Read,
    /// Sends records, asks served models.
    Write,
    /// May do everything.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// The roles of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(Vec<Role>);

impl Roles {
    /// `read`, `read,write`, `admin`.
    pub fn parse(text: &str) -> Option<Self> {
        let role = |name: &str| Role::ALL.into_iter().find(|role| role.as_str() == name);
        text.split(',').map(role).collect::<Option<Vec<Role>>>().map(Self)
    }

    /// That of an administrator.
    pub fn admin() -> Self {
        Self(vec![Role::Admin])
    }

    /// Whether that is enough for what asks for `access`.
    pub fn allow(&self, access: Access) -> bool {
        match access {
            Access::Open | Access::Any => true,
            Access::Role(role) => self.0.iter().any(|has| *has == role || *has == Role::Admin),
        }
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(","))
    }
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: health, for whoever watches the process. It says nothing about records.
    Open,
    /// Any token: what a client asks before it begins, such as the inputs of a served model.
    Any,
    /// A token of that role.
    Role(Role),
}

const OPEN: Access = Access::Open;
const ANY: Access = Access::Any;
const READ: Access = Access::Role(Role::Read);
const WRITE: Access = Access::Role(Role::Write);
const ADMIN: Access = Access::Role(Role::Admin);

/// Every route of the server. One that is not here is the administrators'.
pub const ROUTES: &[(&str, &str, Access)] = &[
    ("GET", "/healthz", OPEN),
    ("GET", "/readyz", OPEN),
    ("GET", "/ping", OPEN),
    ("GET", "/health", OPEN),
    ("GET", "/v2/health/live", OPEN),
    ("GET", "/v2/health/ready", OPEN),
    // The page holds no data; it asks for a token itself.
    ("GET", "/", OPEN),
    ("GET", "/api/v1/openapi.json", ANY),
    ("GET", "/info", ANY),
    ("GET", "/v2", ANY),
    ("POST", "/v2/repository/index", ANY),
    ("GET", "/v2/models/{model}", ANY),
    ("GET", "/v2/models/{model}/ready", ANY),
    ("GET", "/v2/models/{model}/versions/{version}", ANY),
    ("GET", "/v2/models/{model}/versions/{version}/ready", ANY),
    ("GET", "/metrics", READ),
    ("GET", "/api/v1/pipeline", READ),
    ("GET", "/api/v1/components", READ),
    ("GET", "/api/v1/streams", READ),
    ("GET", "/api/v1/streams/{name}/tap", READ),
    ("GET", "/api/v1/models", READ),
    ("GET", "/api/v1/tables", READ),
    ("GET", "/api/v1/tables/{name}/rows", READ),
    ("POST", "/api/v1/query", READ),
    ("GET", "/api/v1/dlq", READ),
    ("GET", "/api/v1/dlq/summary", READ),
    ("GET", "/api/v1/dlq/{stream}/{offset}", READ),
    ("GET", "/api/v1/dlq/redrive", READ),
    ("POST", "/streams/{name}/records", WRITE),
    ("POST", "/invocations", WRITE),
    ("POST", "/v2/models/{model}/infer", WRITE),
    ("POST", "/v2/models/{model}/versions/{version}/infer", WRITE),
    ("POST", "/embed", WRITE),
    ("POST", "/predict", WRITE),
    ("POST", "/api/v1/dlq/redrive", ADMIN),
    ("POST", "/api/v1/dlq/discard", ADMIN),
    ("POST", "/api/v1/models/{name}/reload", ADMIN),
];

/// What a request of `method` to the route with this pattern asks for.
pub fn asked(method: &Method, pattern: &str) -> Access {
    // A GET without its body.
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let found = ROUTES.iter().find(|(m, path, _)| *m == method && *path == pattern);
    found.map_or(ADMIN, |(_, _, access)| *access)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::{inference, model_server};

    /// The patterns that a router has, as it shows them itself.
    fn patterns(shown: &str) -> BTreeSet<String> {
        let node = shown.split("\"/").skip(1).filter_map(|rest| rest.split_once('"'));
        node.map(|(path, _)| format!("/{path}")).collect()
    }

    #[test]
    fn every_route_of_every_router_has_its_role_here() {
        let models = inference::Inference::loading(inference::Limits::default());
        let routers = [
            format!("{:?}", crate::api::routes()),
            format!("{:?}", model_server::routes()),
            format!("{:?}", inference::router(models)),
        ];
        let mut found: BTreeSet<String> = routers.iter().flat_map(|shown| patterns(shown)).collect();
        assert!(found.remove("/{*__private__axum_fallback}"), "what answers where there is no route");
        let listed: BTreeSet<String> = ROUTES.iter().map(|(_, path, _)| (*path).to_owned()).collect();
        assert_eq!(found, listed);
    }

    #[test]
    fn every_method_of_every_route_has_its_role_here() {
        let sources =
            [include_str!("mod.rs"), include_str!("model_server.rs"), include_str!("inference/mod.rs")].concat();
        let flat = sources.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut found = BTreeSet::new();
        for route in flat.split(".route(").skip(1) {
            let (path, rest) = route.trim_start_matches([' ', '"']).split_once('"').unwrap();
            let method = rest.trim_start_matches([',', ' ']).split('(').next().unwrap();
            found.insert((method.to_uppercase(), path.to_owned()));
        }
        let listed = ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
        assert_eq!(found, listed);
    }

    #[test]
    fn the_api_document_says_the_same() {
        let document: serde_json::Value = serde_json::from_str(crate::api::OPENAPI).unwrap();
        for (method, path, access) in ROUTES {
            let role = match access {
                Access::Open => "none",
                Access::Any => "any",
                Access::Role(role) => role.as_str(),
            };
            let said = &document["paths"][path][method.to_lowercase()];
            assert_eq!(said["x-role"], role, "{method} {path}");
            let refuses = matches!(access, Access::Role(_));
            assert_eq!(said["responses"].get("403").is_some(), refuses, "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_listed_is_the_administrators_and_reading_is_not_writing() {
        assert_eq!(asked(&Method::DELETE, "/metrics"), ADMIN);
        assert_eq!(asked(&Method::GET, "/api/v1/new"), ADMIN);
        assert_eq!(asked(&Method::HEAD, "/metrics"), READ);
        let roles = |text| Roles::parse(text).unwrap();
        let allows = |text, access| roles(text).allow(access);
        assert!(allows("read", READ) && !allows("read", WRITE) && !allows("read", ADMIN) && allows("read", ANY));
        assert!(allows("write", WRITE) && !allows("write", READ) && !allows("write", ADMIN) && allows("write", ANY));
        assert!(allows("read,write", READ) && allows("read,write", WRITE) && !allows("read,write", ADMIN));
        assert!(allows("admin", READ) && allows("admin", WRITE) && allows("admin", ADMIN));
        assert_eq!((Roles::parse("owner"), Roles::parse(""), Roles::parse("read,")), (None, None, None));
    }
}
