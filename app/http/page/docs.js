// Behind a proxy that takes a path prefix away, the service does not know where it stands; this page does.
const place = new URL(".", location).pathname.slice(0, -1);
fetch("openapi.json").then((response) => response.json()).then((spec) => {
  if (place) spec.servers ??= [{ url: place }];
  SwaggerUIBundle({ spec, dom_id: "#docs", validatorUrl: null, tryItOutEnabled: true, docExpansion: "list", defaultModelsExpandDepth: 0 });
});
