// One client of the packages installed in the working directory, asked for tokens; run by doors.py,
// which verifies what it says.
//
// Arguments: the client, and a JSON list of {selector, id, resource}. Prints one JSON object for
// each: {token, expires_on} or {error}. Standard output has to be a pipe: tokens go there.
"use strict";

const load = require("node:module").createRequire(`${process.cwd()}/`);

const clients = {
  "@azure/identity": async ({ selector, id, resource }) => {
    const { ManagedIdentityCredential } = load("@azure/identity");
    const name = { client_id: "clientId", object_id: "objectId", resource_id: "resourceId" };
    const credential = new ManagedIdentityCredential(id ? { [name[selector]]: id } : {});
    return bearer(await credential.getToken(`${resource}/.default`));
  },

  // The oldest takes a client id and nothing else.
  "@azure/identity 2": async ({ id, resource }) => {
    const { ManagedIdentityCredential } = load("@azure/identity");
    const credential = id ? new ManagedIdentityCredential(id) : new ManagedIdentityCredential();
    return bearer(await credential.getToken(`${resource}/.default`));
  },

  "@azure/identity default": async ({ id, resource }) => {
    const { DefaultAzureCredential } = load("@azure/identity");
    const credential = new DefaultAzureCredential(id ? { managedIdentityClientId: id } : {});
    return bearer(await credential.getToken(`${resource}/.default`));
  },

  "@azure/msal-node": async ({ selector, id, resource }) => {
    const { ManagedIdentityApplication } = load("@azure/msal-node");
    const name = {
      client_id: "userAssignedClientId",
      object_id: "userAssignedObjectId",
      resource_id: "userAssignedResourceId",
    };
    const config = id ? { managedIdentityIdParams: { [name[selector]]: id } } : {};
    const answer = await new ManagedIdentityApplication(config).acquireToken({ resource });
    return [answer.accessToken, answer.expiresOn.getTime() / 1000];
  },

  // It reads the seconds of `expires_on` as milliseconds; the caller is left with the field.
  "@azure/ms-rest-nodeauth vm": async ({ selector, id, resource }) => {
    const { loginWithVmMSI } = load("@azure/ms-rest-nodeauth");
    const name = { client_id: "clientId", object_id: "objectId", resource_id: "identityId" };
    const options = { resource, ...(id && { [name[selector]]: id }) };
    if (process.env.MSI_ENDPOINT) {
      Object.assign(options, { msiEndpoint: process.env.MSI_ENDPOINT, httpMethod: "POST" });
    }
    const answer = await (await loginWithVmMSI(options)).getToken();
    return [answer.accessToken, answer.expiresOn.getTime()];
  },

  "@azure/ms-rest-nodeauth app service": async ({ id, resource }) => {
    const { loginWithAppServiceMSI } = load("@azure/ms-rest-nodeauth");
    const options = { resource, ...(id && { clientId: id }) };
    const answer = await (await loginWithAppServiceMSI(options)).getToken();
    return [answer.accessToken, answer.expiresOn.getTime()];
  },
};

// A NaN becomes null: an expiry that the client could not read.
function bearer({ token, expiresOnTimestamp }) {
  return [token, expiresOnTimestamp / 1000];
}

async function main([client, asks]) {
  for (const ask of JSON.parse(asks)) {
    let answer;
    try {
      const [token, expires_on] = await clients[client](ask);
      answer = { token, expires_on };
    } catch (error) {
      answer = { error: `${error.name}: ${error.message}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

main(process.argv.slice(2)).then(() => process.exit(0));
