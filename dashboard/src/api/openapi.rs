//! The OpenAPI document, made from the table of routes.

use super::{Endpoint, Method, endpoints};
use utoipa::openapi::path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder,
    PathsBuilder, Ref, Required, ResponseBuilder, ResponsesBuilder,
};

const JSON: &str = "application/json";
const ERROR: &str = "#/components/schemas/Error";

/// The whole document.
pub(crate) fn document() -> OpenApi {
    let mut paths = utoipa::openapi::Paths::new();
    for endpoint in endpoints() {
        let method = match endpoint.method {
            Method::Get => HttpMethod::Get,
            Method::Post => HttpMethod::Post,
            Method::Delete => HttpMethod::Delete,
        };
        paths.add_path_operation(endpoint.path, vec![method], operation(endpoint));
    }
    let string = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
    let error = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Object))
        .description(Some("What is wrong with a request and what to do"))
        .property("error", string())
        .required("error")
        .property("field", string())
        .property("allowed", string())
        .property("remedy", string())
        .required("remedy");
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The token heliostat was started with"))
        .build();
    let components = ComponentsBuilder::new()
        .schema("Error", error)
        .security_scheme("token", SecurityScheme::Http(token))
        .build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Heliostat")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "What a site measures, decides and plans. Instants are RFC 3339, UTC; values are in the metric \
                     catalogue's units; every value says whether it was measured, estimated or is missing.",
                ))
                .build(),
        )
        .paths(PathsBuilder::from(paths))
        .components(Some(components))
        .build()
}

fn operation(endpoint: &Endpoint) -> Operation {
    let mut builder = OperationBuilder::new()
        .operation_id(Some(operation_id(endpoint)))
        .summary(Some(endpoint.about))
        .responses(responses(endpoint));
    if endpoint.path.contains("{id}") {
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("Its name"))
            .schema(Some(text_schema()));
        builder = builder.parameter(id);
    }
    for param in endpoint.params {
        let required = if param.required {
            Required::True
        } else {
            Required::False
        };
        let parameter = ParameterBuilder::new()
            .name(param.name)
            .parameter_in(ParameterIn::Query)
            .required(required)
            .description(Some(param.about))
            .schema(Some(text_schema()));
        builder = builder.parameter(parameter);
    }
    if let Some(example) = endpoint.body {
        let example = serde_json::from_str(example).ok();
        let content = ContentBuilder::new()
            .schema(Some(object_schema()))
            .example(example)
            .build();
        let body = RequestBodyBuilder::new()
            .content(JSON, content)
            .required(Some(Required::True))
            .build();
        builder = builder.request_body(Some(body));
    }
    if endpoint.method != Method::Get {
        let no_scopes: [&str; 0] = [];
        builder = builder.security(SecurityRequirement::new("token", no_scopes));
    }
    builder.build()
}

fn responses(endpoint: &Endpoint) -> utoipa::openapi::Responses {
    let good = ContentBuilder::new().schema(Some(object_schema())).build();
    let error = || {
        let content = ContentBuilder::new().schema(Some(Ref::new(ERROR))).build();
        ResponseBuilder::new().content(JSON, content)
    };
    let (status, words) = match endpoint.method {
        Method::Get => ("200", "The answer"),
        Method::Post | Method::Delete => ("202", "Accepted; control takes it up at once"),
    };
    let mut builder = ResponsesBuilder::new()
        .response(
            status,
            ResponseBuilder::new()
                .description(words)
                .content(JSON, good),
        )
        .response(
            "400",
            error().description("A parameter or the body is not allowed"),
        );
    if endpoint.method != Method::Get {
        builder = builder
            .response("403", error().description("No token, or a wrong one"))
            .response("413", error().description("The body is too long"));
    }
    if endpoint.path.contains('{') || endpoint.path.ends_with("power-budget") {
        builder = builder.response("404", error().description("Nothing bears this name"));
    }
    builder.build()
}

fn operation_id(endpoint: &Endpoint) -> String {
    let mut id = endpoint.method.word().to_ascii_lowercase();
    for part in endpoint
        .path
        .trim_start_matches("/api/v1/")
        .split(['/', '-', '.'])
    {
        let part = part.trim_matches(['{', '}']);
        id.push('_');
        id.push_str(part);
    }
    id
}

fn text_schema() -> utoipa::openapi::schema::Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .build()
}

fn object_schema() -> utoipa::openapi::schema::Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Object))
        .build()
}
