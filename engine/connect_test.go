package main

import (
	"os/exec"
	"strings"
	"testing"
	"unicode"

	"blockengine/engine/config"
	"blockengine/internal/nbdtest"
)

func TestHowToConnect(t *testing.T) {
	for _, tc := range []struct {
		at   config.Address
		name string
		want string
	}{
		{config.Address{Network: "unix", Addr: "/run/a b+&.sock"}, "disk", `nbdinfo 'nbd+unix:///disk?socket=/run/a%20b%2B%26.sock'` +
			"\n" + `qemu-img info 'nbd+unix:///disk?socket=/run/a%20b%2B%26.sock'` +
			"\n" + `nbd-client -unix '/run/a b+&.sock' /dev/nbd0 -N disk`},
		{config.Address{Network: "tcp", Addr: "[::1]:10809"}, "", "nbdinfo 'nbd://[::1]:10809/'\nqemu-img info 'nbd://[::1]:10809/'\nnbd-client ::1 10809 /dev/nbd0"},
		{config.Address{Network: "tcp", Addr: "0.0.0.0:1"}, "a/b", "nbdinfo nbd://127.0.0.1:1/a%2Fb\nqemu-img info nbd://127.0.0.1:1/a%2Fb\nnbd-client 127.0.0.1 1 /dev/nbd0 -N a/b"},
		{config.Address{Network: "tcp", Addr: "[::]:1"}, "ä", "nbdinfo 'nbd://[::1]:1/%C3%A4'\nqemu-img info 'nbd://[::1]:1/%C3%A4'\nnbd-client ::1 1 /dev/nbd0 -N 'ä'"},
	} {
		if got := strings.Join(nbdClients(tc.at, tc.name), "\n"); got != tc.want {
			t.Errorf("%s %q:\n%s\nwant:\n%s", tc.at, tc.name, got, tc.want)
		}
	}
}

// A shell reads a quoted word as it was, and no escape reaches the terminal.
func TestQuoteShell(t *testing.T) {
	bash := nbdtest.Require(t, "bash", "bash")
	for _, word := range []string{"", "plain", "a b", "it's", `back\slash`, "$HOME `id` \"x\" !*?[~", "tab\tnew\nline", "\x1b[31mred\x7f", "\\\x01'", "ä€", "\u009b31m ä", "\xff"} {
		quoted := quoteShell(word)
		out, err := exec.Command(bash, "-c", "printf %s "+quoted).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q is read as %q, %v", quoted, out, err)
		}
		if strings.ContainsFunc(quoted, unicode.IsControl) {
			t.Errorf("%q has control characters", quoted)
		}
	}
}

func TestLeadsTo(t *testing.T) {
	tcp := func(a string) config.Address { return config.Address{Network: "tcp", Addr: a} }
	unix := config.Address{Network: "unix", Addr: "/x"}
	for _, tc := range []struct {
		a, l config.Address
		want bool
	}{
		{unix, unix, true}, {unix, tcp("127.0.0.1:1"), false}, {unix, config.Address{Network: "unix", Addr: "/y"}, false},
		{tcp("127.0.0.1:1"), tcp("127.0.0.1:1"), true}, {tcp("localhost:1"), tcp("0.0.0.0:1"), true},
		{tcp("127.0.0.1:1"), tcp("127.0.0.1:2"), false}, {tcp("192.0.2.1:1"), tcp("0.0.0.0:1"), false},
		{tcp("192.0.2.1:1"), tcp("192.0.2.1:1"), true},
	} {
		if got := leadsTo(tc.a, tc.l); got != tc.want {
			t.Errorf("%s to %s: %v", tc.a, tc.l, got)
		}
	}
}
