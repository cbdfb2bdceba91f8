SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", validatorUrl: null, tryItOutEnabled: true, docExpansion: "list", defaultModelsExpandDepth: 0 });
