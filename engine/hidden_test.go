package main

import (
	"slices"
	"testing"

	"blockengine/engine/config"
)

func TestHiddenFromProcesses(t *testing.T) {
	cfg, err := config.Parse("/etc/engine/engine.toml", []byte(`
[engine]
state_dir = "/srv/engine"
admin = "unix:/srv/admin.sock"
[[volume]]
name = "v"
plugin = "nbd"
[volume.options]
export = "x"
[[volume.path]]
address = "unix:/srv/storage.sock"
[[volume.path]]
address = "tcp:127.0.0.1:10809"
[[export]]
name = "a"
volume = "v"
frontend = "nbd"
listen = "unix:/srv/nbd.sock"
[[export]]
name = "b"
volume = "v"
frontend = "vhost-user-blk"
socket = "/srv/vm.sock"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/etc/engine/engine.toml", "/srv/admin.sock", "/srv/nbd.sock", "/srv/storage.sock", "/srv/vm.sock"}
	got := hidden(cfg)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("hidden: %q\nwant    %q", got, want)
	}
}
