//! The bytes of every mode, as a table: its name, how the connection ends, and a pattern for the
//! whole of what a raw socket reads from an emulator of IMDS.
//!
//! In a pattern `*` is anything and `?` one byte. `OK` is the first line of a success, `BODY` the
//! right body, `HALF` the start of it.

use super::wire::End::{self, Closed, Open, Reset};

/// Rows of the table below.
macro_rules! wire {
    ($($name:literal $end:ident $pattern:literal;)*) => { &[$(($name, $end, $pattern)),*] };
}

pub(super) const WIRE: &[(&str, End, &str)] = wire! {
    "retry-after-zero" Closed "HTTP/1.1 503 *\r\nRetry-After: 0\r\n*";
    "retry-after-past" Closed "HTTP/1.1 503 *\r\nRetry-After: ???, * GMT\r\n*";
    "retry-after-words" Closed "HTTP/1.1 503 *\r\nRetry-After: soon\r\n*";
    "retry-after-twice" Closed "HTTP/1.1 503 *\r\nRetry-After: 3\r\nRetry-After: 90\r\n*";
    "invalid-resource" Closed "HTTP/1.1 400 *{\"error\":\"invalid_resource\",*AADSTS500011:*}";
    "error-as-200" Closed "OK*{\"error\":\"invalid_request\",*}";
    "token-as-500" Closed "HTTP/1.1 500 *\r\n\r\nBODY";
    "token-as-400" Closed "HTTP/1.1 400 *\r\n\r\nBODY";
    "status-201" Closed "HTTP/1.1 201 Created\r\n*\r\n\r\nBODY";
    "status-206" Closed "HTTP/1.1 206 *\r\n\r\nBODY";
    "status-304" Closed "HTTP/1.1 304 Not Modified\r\n*\r\n\r\n";
    "status-204" Closed "HTTP/1.1 204 No Content\r\n*\r\n\r\n";
    "status-101" Closed "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n*\r\n\r\n";
    "status-600" Closed "HTTP/1.1 600 Beyond\r\n*\r\n\r\n";
    "identity-not-found" Closed "HTTP/1.1 400 *\"error_description\":\"Identity not found\"}";

    "accept-reset" Reset "";
    "accept-close" Closed "";
    "accept-hang" Open "";
    "speaks-first" Closed "SSH-2.0-*\r\n";

    "hang" Open "";
    "hang-mid-header" Open "OK*\r\nContent-Len";
    "hang-after-headers" Open "OK*\r\n\r\n";
    "hang-mid-body" Open "OK*\r\n\r\nHALF";
    "close" Closed "";
    "close-mid-header" Closed "OK*\r\nContent-Len";
    "close-after-headers" Closed "OK*\r\n\r\n";
    "half-body" Closed "OK*\r\n\r\nHALF";
    "reset" Reset "";
    "reset-mid-header" Reset "OK*\r\nContent-Len";
    "reset-after-headers" Reset "OK*\r\n\r\n";
    "reset-mid-body" Reset "OK*\r\n\r\nHALF";
    "drip" Closed "OK*\r\n\r\nBODY";
    "drip-head" Closed "OK*\r\n\r\nBODY";
    "slow-drip" Open "HTTP/*";
    "keep-alive-close" Closed "OK*\r\nConnection: keep-alive\r\n\r\nBODY";
    "keep-alive-close-late" Closed "OK*\r\nConnection: keep-alive\r\n\r\nBODY";
    "keep-alive-race" Open "OK*\r\n\r\nBODY";
    "keep-alive-race-reset" Open "OK*\r\n\r\nBODY";

    "length-too-long" Closed "OK*\r\n\r\nBODY";
    "length-too-long-open" Open "OK*\r\n\r\nBODY";
    "length-too-short" Closed "OK*\r\n\r\nBODY";
    "length-zero" Closed "OK*\r\nContent-Length: 0\r\n\r\nBODY";
    "length-twice" Closed "OK*\r\nContent-Length: *\r\nContent-Length: *\r\n\r\nBODY";
    "length-twice-differing" Closed "OK*\r\nContent-Length: *\r\nContent-Length: *\r\n\r\nBODY";
    "length-negative" Closed "OK*\r\nContent-Length: -1\r\n\r\nBODY";
    "length-words" Closed "OK*\r\nContent-Length: many\r\n\r\nBODY";
    "length-overflow" Closed "OK*\r\nContent-Length: 9999999999999999999999\r\n\r\nBODY";
    "length-huge" Closed "OK*\r\nContent-Length: 1099511627776\r\n\r\nBODY";
    "length-missing" Closed "OK*\r\nDate: * GMT\r\nConnection: close\r\n\r\nBODY";
    "length-and-chunked" Closed
        "OK*\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\n0\r\n\r\n";
    "chunked" Closed
        "OK*\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\n0\r\n\r\n";
    "chunked-trailer" Closed
        "OK*\r\nTrailer: X-Sum\r\n*chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\n0\r\nX-Sum: 7\r\n\r\n";
    "chunked-extension" Closed "OK*chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\n0;name=value\r\n\r\n";
    "chunked-bad-size" Closed "OK*chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\nzz\r\nmore\r\n0\r\n\r\n";
    "chunked-overflow" Closed
        "OK*chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\nffffffffffffffffffff\r\nmore\r\n0\r\n\r\n";
    "chunked-no-end" Closed "OK*chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\n";
    "chunked-cut" Closed "OK*chunked\r\n\r\n1\r\n \r\n*\r\nBODY\r\nff\r\nmore";
    "coding-unknown" Closed "OK*\r\nTransfer-Encoding: squeezed\r\n\r\nBODY";
    "status-line-broken" Closed "HTPP/1.1 OK 200\r\n*\r\n\r\nBODY";
    "status-line-short" Closed "HTTP/1.1 20 OK\r\n*\r\n\r\nBODY";
    "status-line-no-reason" Closed "HTTP/1.1 200\r\n*\r\n\r\nBODY";
    "empty-line-first" Closed "\r\nOK*\r\n\r\nBODY";
    "junk-first" Closed "junk\r\nOK*\r\n\r\nBODY";
    "http-3-7" Closed "HTTP/3.7 200 OK\r\n*\r\n\r\nBODY";
    "http-0-9" Closed "BODY";
    "http-1-0" Closed "HTTP/1.0 200 OK\r\n*\r\nContent-Length: *\r\n\r\nBODY";
    "http-1-0-no-length" Closed "HTTP/1.0 200 OK\r\nContent-Type: *\r\n\r\nBODY";
    "http-2" Closed "\0\0\0\x04\0\0\0\0\0";
    "continue-first" Closed "HTTP/1.1 100 Continue\r\n\r\nOK*\r\n\r\nBODY";
    "early-hints" Closed "HTTP/1.1 103 Early Hints\r\nLink: *\r\n\r\nOK*\r\n\r\nBODY";
    "early-hints-1000" Closed "HTTP/1.1 103 Early Hints\r\n*\r\n\r\nOK*\r\n\r\nBODY";
    "early-hints-only" Open "HTTP/1.1 103 Early Hints\r\nLink: *\r\n\r\n";
    "second-answer" Closed "OK*\r\n\r\nBODYOK*\r\n\r\n{\"access_token\":\"glued\"}";
    "second-answer-later" Closed "OK*\r\n\r\nBODYOK*\r\n\r\n{\"access_token\":\"glued\"}";
    "huge-header" Closed "OK*\r\nX-Padding: xxx*xxx\r\n\r\nBODY";
    "many-headers" Closed "OK*\r\nX-Padding: x\r\nX-Padding: x\r\n*\r\n\r\nBODY";
    "endless-head" Closed "OK*X-Padding: xxx*xxx";
    "header-no-colon" Closed "OK*\r\nX-Broken\r\n\r\nBODY";
    "header-nul" Closed "OK*\r\nX-Broken: a\0b\r\n\r\nBODY";
    "header-bare-cr" Closed "OK*\r\nX-Broken: a\rb\r\n\r\nBODY";
    "header-folded" Closed "OK*\r\nX-Folded: a\r\n b\r\n\r\nBODY";
    "header-bare-lf" Closed "HTTP/1.1 200 OK\nContent-Length: *\n\nBODY";
    "header-not-ascii" Closed "OK*\r\nX-Name: fähre\r\n\r\nBODY";

    "redirect-self" Closed
        "HTTP/1.1 302 Found\r\n*\r\nLocation: http://127.0.0.1:*/metadata/identity/oauth2/token?*";
    "redirect-elsewhere" Closed
        "HTTP/1.1 302 Found\r\n*\r\nLocation: http://127.0.0.1:9/elsewhere\r\n*";
    "redirect-307" Closed "HTTP/1.1 307 *\r\nLocation: http://*/token?*";
    "redirect-nowhere" Closed "HTTP/1.1 308 *\r\n\r\n{*}";
    "set-cookie" Closed "OK*\r\nSet-Cookie: session=1; Path=/\r\n*\r\n\r\nBODY";
    "type-text" Closed "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n*\r\n\r\nBODY";
    "type-html" Closed "OKContent-Type: text/html; charset=utf-8\r\n*\r\n\r\nBODY";
    "type-missing" Closed "OKDate: * GMT\r\nContent-Length: *\r\n\r\nBODY";
    "html" Closed "OKContent-Type: text/html*\r\n\r\n<!DOCTYPE html>*</html>";
    "gzip" Closed "OK*\r\nContent-Encoding: gzip\r\nContent-Length: *\r\n\r\n\x1f*BODY*";
    "gzip-unnamed" Closed "OK*GMT\r\nContent-Length: *\r\n\r\n\x1f*BODY*";
    "gzip-named" Closed "OK*\r\nContent-Encoding: gzip\r\nContent-Length: *\r\n\r\nBODY";
    "date-5m-ahead" Closed "OK*\r\nDate: * GMT\r\nContent-Length: *\r\n\r\nBODY";
    "date-5m-behind" Closed "OK*\r\nDate: * GMT\r\nContent-Length: *\r\n\r\nBODY";
    "date-1d-ahead" Closed "OK*\r\nDate: * GMT\r\nContent-Length: *\r\n\r\nBODY";
    "date-1d-behind" Closed "OK*\r\nDate: * GMT\r\nContent-Length: *\r\n\r\nBODY";
    "date-missing" Closed
        "OKContent-Type: *\r\nServer: *\r\nx-ms-request-id: ????????-*\r\nContent-Length: *\r\n\r\nBODY";
    "date-words" Closed "OK*\r\nDate: today\r\nContent-Length: *\r\n\r\nBODY";
    "date-twice" Closed "OK*\r\nDate: * GMT\r\nDate: * GMT\r\nContent-Length: *\r\n\r\nBODY";

    "body-empty" Closed "OK*\r\nContent-Length: 0\r\n*\r\n\r\n";
    "json-invalid" Closed "OK*\r\n\r\n{'access_token': x}";
    "json-truncated" Closed "OK*\r\n\r\nHALF";
    "json-array" Closed "OK*\r\n\r\n[BODY]";
    "json-string" Closed "OK*\r\n\r\n\"access_token\"";
    "json-number" Closed "OK*\r\n\r\n42";
    "json-null" Closed "OK*\r\n\r\nnull";
    "json-empty-object" Closed "OK*\r\n\r\n{}";
    "json-nested" Closed "OK*\r\n\r\n{\"token\":BODY}";
    "json-deep" Closed "OK*\r\nContent-Length: 100000\r\n*\r\n\r\n[[[*[[[";
    "json-nan" Closed "OK*\r\n\r\n{\"x\":NaN,\"access_token\":\"ey*}";
    "json-trailing-comma" Closed "OK*\r\n\r\n{\"access_token\":\"ey*\"Bearer\",}";
    "trailing-junk" Closed "OK*\r\n\r\nBODYjunk";
    "trailing-object" Closed "OK*\r\n\r\nBODYBODY";
    "trailing-nul" Closed "OK*\r\n\r\nBODY\0";
    "blanks-around" Closed "OK*\r\n\r\n \r\n\tBODY\r\n";
    "bom" Closed "OK*\r\n\r\n\u{feff}BODY";
    "bad-utf-8" Closed "OK*\r\n\r\n{\"x\":\"??\",\"access_token\":\"ey*}";
    "utf-16" Closed "OK*\r\nContent-Length: 12\r\n*\r\n\r\n??{\0\"\0a\0\"\0:\0";
    "token-twice" Closed "OK*\r\n\r\n{\"access_token\":\"another\",\"access_token\":\"ey*}";
    "member-twice" Closed "OK*\r\n\r\n{\"x\":1,\"x\":2,\"access_token\":\"ey*}";
    "expires-on-twice" Closed "OK*\r\n\r\n{\"expires_on\":\"4102444800\",*\"expires_on\":\"*}";
    "resource-twice" Closed
        "OK*\r\n\r\n{\"resource\":\"https://elsewhere.invalid\",*\"resource\":\"https://man*}";
    "extra-members" Closed "OK*\r\n\r\n{\"x\":{\"y\":[1,2,{}]},\"z\":null,\"access_token\":\"ey*}";
    "huge-body" Closed "OK*\r\n\r\n{\"padding\":\"xxx*xxx\",\"access_token\":\"ey*}";
    "huge-token" Closed "OK*\r\n\r\n{\"access_token\":\"xxx*xxx\",\"client_id\"*}";
    "huge-junk" Closed "OK*\r\nContent-Length: 4194304\r\n*\r\n\r\nxxx*xxx";
    "endless-body" Closed "OK*\r\n\r\n{\"padding\":\"xxx*xxx";

    "no-access-token" Closed "OK*\r\n\r\n{\"client_id\":*}";
    "no-resource" Closed "OK*,\"not_before\":\"*\",\"token_type\":\"Bearer\"}";
    "no-token-type" Closed "OK*,\"resource\":\"https://management.azure.com\"}";
    "no-client-id" Closed "OK*{\"access_token\":\"*\",\"expires_in\":*}";
    "no-not-before" Closed "OK*,\"ext_expires_in\":\"*\",\"resource\":*}";
    "token-empty" Closed "OK*{\"access_token\":\"\",\"client_id\":*}";
    "token-number" Closed "OK*{\"access_token\":7,*}";
    "token-object" Closed "OK*{\"access_token\":{\"t\":1},*}";
    "token-list" Closed "OK*{\"access_token\":[\"t\"],*}";
    "token-true" Closed "OK*{\"access_token\":true,*}";
    "token-spaces" Closed "OK*{\"access_token\":\"a b c\",*}";
    "token-line-breaks" Closed
        "OK*{\"access_token\":\"abc\\r\\nSet-Cookie: a=b\\r\\n\\r\\n\",*}";
    "token-control" Closed "OK*{\"access_token\":\"a\\u0000b\\u0007c\",*}";
    "token-not-ascii" Closed "OK*{\"access_token\":\"fähre-令牌\",*}";
    "token-type-pop" Closed "OK*,\"token_type\":\"pop\"}";
    "token-type-empty" Closed "OK*,\"token_type\":\"\"}";
    "token-type-lower-case" Closed "OK*,\"token_type\":\"bearer\"}";
    "wrong-resource" Closed "OK*,\"resource\":\"https://elsewhere.invalid\",*}";
    "resource-renamed" Closed "OK*,\"resource\":\"https://elsewhere.invalid\",*}";
    "resource-empty" Closed "OK*,\"resource\":\"\",*}";
    "resource-line-breaks" Closed
        "OK*,\"resource\":\"https://a\\r\\nX-Injected: 1\\r\\n\\r\\n\",*}";
    "wrong-client" Closed "OK*,\"client_id\":\"99999999-9999-4999-8999-999999999999\",*}";
    "client-id-line-breaks" Closed "OK*,\"client_id\":\"a\\r\\nX-Injected: 1\\r\\n\\r\\n\",*}";

    "expired-token" Closed "OK*,\"expires_in\":\"0\",*}";
    "not-yet-valid-token" Closed "OK*\r\n\r\nBODY";
    "ending-token" Closed "OK*,\"expires_in\":\"?\",*}";
    "short-token" Closed "OK*,\"expires_in\":\"*\",*}";
    "older-token" Closed "OK*,\"expires_in\":\"5????\",*}";
    "unchanged" Closed "OK*\r\n\r\nBODY";
    "no-expiry" Closed "OK*,\"client_id\":\"*\",\"not_before\":*}";
    "no-expires-on" Closed "OK*,\"expires_in\":\"*\",\"ext_expires_in\":\"*}";
    "no-expires-in" Closed "OK*,\"client_id\":\"*\",\"expires_on\":\"*\",\"ext_expires_in\":\"*}";
    "no-ext-expires-in" Closed "OK*,\"expires_on\":\"*\",\"not_before\":*}";
    "expires-in-stale" Closed "OK*,\"expires_in\":\"172800\",\"expires_on\":\"*}";

    "expires-in-zero" Closed "OK*,\"client_id\":\"*\",\"expires_in\":\"0\",\"not_before\":*}";
    "expires-in-negative" Closed "OK*,\"expires_in\":\"-1\",\"not_before\":*}";
    "expires-in-words" Closed "OK*,\"expires_in\":\"soon\",\"not_before\":*}";
    "expires-in-overflow" Closed "OK*,\"expires_in\":\"99999999999999999999\",\"not_before\":*}";
    "expires-on-past" Closed
        "OK*,\"client_id\":\"*\",\"expires_on\":\"1000000000\",\"not_before\":*}";
    "expires-on-zero" Closed "OK*,\"expires_on\":\"0\",\"not_before\":*}";
    "expires-on-negative" Closed "OK*,\"expires_on\":\"-1\",\"not_before\":*}";
    "expires-on-far" Closed "OK*,\"expires_on\":\"253402300799\",\"not_before\":*}";
    "expires-on-overflow" Closed "OK*,\"expires_on\":\"99999999999999999999\",\"not_before\":*}";
    "expires-on-exponent" Closed "OK*,\"expires_on\":\"4e9\",\"not_before\":*}";
    "expires-on-words" Closed "OK*,\"expires_on\":\"tomorrow\",\"not_before\":*}";
    "expires-on-empty" Closed "OK*,\"expires_on\":\"\",\"not_before\":*}";
    "expires-on-true" Closed "OK*,\"expires_on\":true,\"not_before\":*}";
    "expires-on-list" Closed "OK*,\"expires_on\":[4102444800],\"not_before\":*}";
    "expires-on-ms" Closed "OK*,\"expires_on\":\"1?????????000\",\"not_before\":*}";
    "expires-on-hex" Closed "OK*,\"expires_on\":\"0x*\",\"not_before\":*}";
    "expires-on-number" Closed "OK*,\"expires_on\":1?????????,\"not_before\":*}";
    "expires-on-float" Closed "OK*,\"expires_on\":1?????????.5,\"not_before\":*}";
    "expires-on-float-text" Closed "OK*,\"expires_on\":\"1?????????.5\",\"not_before\":*}";
    "expires-on-spaced" Closed "OK*,\"expires_on\":\" 1????????? \",\"not_before\":*}";
    "expires-on-iso" Closed
        "OK*,\"expires_on\":\"20??-??-??T??:??:??.0000000+00:00\",\"not_before\":*}";
    "expires-on-us-date" Closed
        "OK*,\"expires_on\":\"??/??/20?? ??:??:?? +00:00\",\"not_before\":*}";
};
