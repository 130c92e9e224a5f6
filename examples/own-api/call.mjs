// Calls the API as a managed identity: two plain HTTP calls, no package, and no secret anywhere.
//
//     node call.mjs API_URL API_AUDIENCE [CLIENT_ID]
//
// As the user-assigned identity with this client id, or as the machine's own. Prints the API's
// status and answer; never the token.

const [api, audience, clientId] = process.argv.slice(2);

// Ask for each call: it is Foretoken that remembers.
async function token() {
  const host = process.env.AZURE_POD_IDENTITY_AUTHORITY_HOST ?? "http://127.0.0.1:16925";
  const query = new URLSearchParams({ "api-version": "2018-02-01", resource: audience });
  if (clientId) query.set("client_id", clientId);
  const answer = await fetch(`${host}/metadata/identity/oauth2/token?${query}`, {
    headers: { Metadata: "true" },
    signal: AbortSignal.timeout(30_000),
  });
  if (!answer.ok) throw new Error(`no token: ${answer.status} ${await answer.text()}`);
  return (await answer.json()).access_token;
}

const answer = await fetch(`${api}/whoami`, {
  headers: { Authorization: `Bearer ${await token()}` },
  signal: AbortSignal.timeout(30_000),
});
console.log(answer.status, await answer.text());
