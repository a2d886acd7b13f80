// An OpenID provider and OAuth 2.0 authorization server of its own, for the tests of logging in.
//
// The program is npm's oidc-provider, which knows nothing of Matrix. What a homeserver that delegates its logins wants
// beside it is here: token introspection with the homeserver's secret, and telling the homeserver of new devices.
// People are approved by the test and not by pages: POST /test/approve and /test/settings.
//
// Argument: one object in JSON: port, homeserver and secret (to serve a homeserver that delegates), clients (those that
// are known from the start), and behind (the address of a proxy in front of it, where people find it).

import { createServer } from "node:http";
import Provider from "oidc-provider";

const { port, homeserver, secret, clients = [], behind } = JSON.parse(process.argv[2]);
const issuer = behind ?? `http://127.0.0.1:${port}`;
const HOMESERVER = "urn:matrix:homeserver";
const DEVICE = "urn:matrix:client:device:";
const settings = { user: "alice", seconds: 300, answer: "allow" };
const devices = new Map(); // token -> [user, device]

async function body(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text;
}

async function tell(path, content) {
  const answer = await fetch(`${homeserver}/_synapse/mas/${path}`, {
    method: "POST",
    headers: { Authorization: `Bearer ${secret}`, "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
}

// The device is part of the scope, so scopes cannot be listed: whatever of Matrix a request names is one.
function scopesOf({ oidc }) {
  const { DeviceCode, AuthorizationCode, RefreshToken } = oidc.entities ?? {};
  const named = [oidc.params?.scope, DeviceCode?.scope, AuthorizationCode?.scope, RefreshToken?.scope];
  return named.join(" ").split(" ").filter((scope) => scope.startsWith("urn:matrix:")).join(" ");
}

async function grant(accountId, clientId, scope) {
  const made = new provider.Grant({ accountId, clientId });
  made.addOIDCScope("openid");
  made.addResourceScope(HOMESERVER, scope);
  return made.save();
}

const delegates = {
  enabled: Boolean(homeserver),
  defaultResource: () => HOMESERVER,
  useGrantedResource: () => true,
  getResourceServerInfo: (context) => ({
    scope: scopesOf(context),
    audience: "homeserver",
    accessTokenTTL: settings.seconds,
    accessTokenFormat: "opaque",
  }),
};

const provider = new Provider(issuer, {
  clients,
  clientDefaults: { token_endpoint_auth_method: "none" },
  discovery: { account_management_uri: `${issuer}/account/` },
  expiresWithSession: () => false,
  features: {
    devInteractions: { enabled: false },
    deviceFlow: { enabled: true },
    registration: { enabled: true },
    resourceIndicators: delegates,
    revocation: { enabled: true },
  },
  findAccount: (_context, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
  interactions: { url: (_context, interaction) => `/test/interaction/${interaction.uid}` },
  issueRefreshToken: () => Boolean(homeserver),
  rotateRefreshToken: true,
});

async function interact(context) {
  const { params } = await provider.interactionDetails(context.req, context.res);
  const result =
    settings.answer === "allow"
      ? {
          login: { accountId: settings.user },
          consent: { grantId: await grant(settings.user, params.client_id, params.scope) },
        }
      : { error: "access_denied", error_description: "not today" };
  context.respond = false;
  await provider.interactionFinished(context.req, context.res, result, { mergeWithLastSubmission: false });
}

async function introspect(context) {
  if (context.get("authorization") !== `Bearer ${secret}`) context.throw(401);
  const token = await provider.AccessToken.find(new URLSearchParams(await body(context.req)).get("token"));
  context.body =
    token && !token.isExpired
      ? { active: true, scope: token.scope, username: token.accountId, sub: token.accountId, expires_in: token.remainingTTL }
      : { active: false };
}

async function approve({ code: typed, user, allow }) {
  const code = await provider.DeviceCode.findByUserCode(typed.replace(/\W/g, "").toUpperCase());
  const outcome = allow
    ? {
        accountId: user,
        authTime: Math.floor(Date.now() / 1000),
        grantId: await grant(user, code.clientId, code.params.scope),
        resource: HOMESERVER,
        scope: code.params.scope,
      }
    : { error: "access_denied", errorDescription: "not today" };
  await Object.assign(code, outcome).save();
}

provider.proxy = Boolean(behind);
provider.use(async (context, next) => {
  if (behind) {
    // The homeserver asks it directly, and hands on where people find it.
    const { protocol, host } = new URL(behind);
    Object.assign(context.req.headers, { "x-forwarded-proto": protocol.slice(0, -1), "x-forwarded-host": host });
  }
  if (context.path === "/oauth2/introspect") return introspect(context);
  if (context.path.startsWith("/test/interaction/")) return interact(context);
  if (context.path.startsWith("/test/")) {
    const content = JSON.parse(await body(context.req));
    if (context.path === "/test/approve") await approve(content);
    if (context.path === "/test/settings") Object.assign(settings, content);
    if (context.path === "/test/user") await tell("provision_user", { localpart: content.user });
    context.body = settings;
    return undefined;
  }
  let revoked;
  if (context.path === "/token/revocation") {
    const form = new URLSearchParams(await body(context.req));
    context.req.body = Object.fromEntries(form);
    revoked = devices.get(form.get("token"));
  }
  await next();
  if (context.path === "/token" && context.status === 200 && homeserver) {
    const { access_token: access, refresh_token: refresh } = context.body;
    const token = await provider.AccessToken.find(access);
    const scope = token.scope.split(" ").find((each) => each.startsWith(DEVICE));
    if (scope) {
      const device = [token.accountId, scope.slice(DEVICE.length)];
      await tell("upsert_device", { localpart: device[0], device_id: device[1] });
      devices.set(access, device).set(refresh, device);
    }
  }
  if (revoked && context.status === 200) await tell("delete_device", { localpart: revoked[0], device_id: revoked[1] });
  return undefined;
});
provider.on("server_error", (_context, error) => console.error(error));
createServer(provider.callback()).listen(port, "127.0.0.1", () => console.log("listening"));
