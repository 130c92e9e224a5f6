# Varnish with grace: the stale object is served while one fetch in the background gets a new one, and a
# fetch that fails there is abandoned, so that it takes no good object's place.
vcl 4.1;

backend source {
  .host = "{upstream_host}";
  .port = "{upstream_port}";
  .connect_timeout = 2s;
  .first_byte_timeout = 10s;
}

sub vcl_recv {
  if (req.http.Metadata != "true") { return (synth(400)); }
  return (hash);
}

sub vcl_backend_fetch {
  # IMDS refuses what was forwarded.
  unset bereq.http.X-Forwarded-For;
}

sub vcl_backend_response {
  if (beresp.status != 200) {
    if (bereq.is_bgfetch) { return (abandon); }
    set beresp.uncacheable = true;
    set beresp.ttl = 0s;
    return (deliver);
  }
  set beresp.ttl = {ttl_s}s;
  set beresp.grace = 1h;
}

sub vcl_backend_error {
  if (bereq.is_bgfetch) { return (abandon); }
}
