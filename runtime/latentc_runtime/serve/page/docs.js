// The OpenAPI document of the server as a page, with the key that the first page asked for.

import { headers, openapi } from "./api.js";

const place = document.getElementById("docs");
try {
  window.SwaggerUIBundle({
    spec: await openapi(),
    domNode: place,
    validatorUrl: null,
    requestInterceptor: (request) => Object.assign(request, { headers: headers(request.headers) }),
  });
} catch (error) {
  const link = Object.assign(document.createElement("a"), { href: "./", textContent: "Enter it on the first page." });
  place.replaceChildren(`${error.message} `, ...(error.status === 401 ? [link] : []));
}
