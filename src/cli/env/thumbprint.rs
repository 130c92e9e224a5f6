//! The thumbprint by which Service Fabric's clients know a certificate: SHA-1 of its DER form, in
//! hexadecimal digits. SHA-1 is what they compare; nothing of ours rests on it.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The thumbprint of the first certificate in a PEM file.
pub(super) fn of_file(path: &Path) -> Result<String> {
    let shown = path.display();
    let pem = match fs::read_to_string(path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("there is no certificate yet at {shown}: start the server once")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    of_pem(&pem).with_context(|| format!("there is no certificate in {shown}"))
}

fn of_pem(pem: &str) -> Option<String> {
    let body = pem.split_once(BEGIN)?.1.split_once(END)?.0;
    let body: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(body).ok().filter(|der| !der.is_empty())?;
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &der);
    Some(digest.as_ref().iter().map(|b| format!("{b:02X}")).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A P-256 certificate for `localhost`, of which only the bytes matter here.
    pub const PEM: &str = "\
-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUeJGTawGi8rpNRWFBWp9SiXlZpo0wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjAwMzAzN1oYDzIxMjYxMDI5
MDAzMDM3WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT4SV4Aw00YWEOk6KRIh0TBsfowBVoGEEjGXYg/dBg/ynoN7lwyLmw7
BRJMGSLXdTLtDHM+jJ1Bpy3CKy7uofpao1MwUTAdBgNVHQ4EFgQUCge0C5sDnhk3
7uCUAjr9xmmlmPYwHwYDVR0jBBgwFoAUCge0C5sDnhk37uCUAjr9xmmlmPYwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAKCIqZIwVUyqNfonO0xkM7
xdg3SMkx9xl+iYnnruPnGwIgML2ieLFys21p/4Iv1Y68CA5J6UYt8XpQMgwxho2z
odo=
-----END CERTIFICATE-----
";
    /// As `openssl x509 -fingerprint -sha1` prints it, without the colons.
    pub const THUMBPRINT: &str = "0C7360415100CEDBBA177E2A44E8E589CA8B9B87";

    #[test]
    fn a_thumbprint_is_what_openssl_says() {
        assert_eq!(of_pem(PEM).as_deref(), Some(THUMBPRINT));
        let windows = PEM.replace('\n', "\r\n");
        assert_eq!(
            of_pem(&format!("before\n{windows}after")).as_deref(),
            Some(THUMBPRINT)
        );
    }

    #[test]
    fn what_is_no_certificate_has_no_thumbprint() {
        for pem in [
            "",
            BEGIN,
            "-----BEGIN CERTIFICATE----------END CERTIFICATE-----",
        ] {
            assert_eq!(of_pem(pem), None, "{pem}");
        }
        assert_eq!(of_pem(&PEM.replace("MII", "!!!")), None);
    }

    #[test]
    fn a_missing_file_asks_to_start_the_server() {
        let told = of_file(Path::new("/nonexistent/cert.pem"))
            .unwrap_err()
            .to_string();
        assert!(told.contains("start the server once"), "{told}");
    }
}
