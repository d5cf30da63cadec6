package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"blockengine/engine/config"
)

// vhostUserClients gives what VMMs want to be told to use a socket. Their guests'
// memory has to be shared with the engine.
func vhostUserClients(x config.Export) []string {
	path, reconnect := x.Socket, ",reconnect=1"
	if x.Connect != "" {
		path, reconnect = x.Connect, ",server=on,wait=off"
	}
	qemu := fmt.Sprintf("qemu: -object memory-backend-memfd,id=mem0,size=1G,share=on -machine memory-backend=mem0 "+
		"-chardev socket,id=c0,path=%s%s -device vhost-user-blk-pci,chardev=c0,num-queues=%d", quoteShell(path), reconnect, x.Queues)
	if x.Connect != "" {
		return []string{qemu}
	}
	return []string{qemu, fmt.Sprintf("cloud-hypervisor: --memory size=1G,shared=on --disk vhost_user=true,socket=%s,num_queues=%d",
		quoteShell(path), x.Queues)}
}

// nbdClients gives commands for a shell that use an NBD export. at is where it
// listens.
func nbdClients(at config.Address, name string) []string {
	uri := quoteShell(nbdURI(at, name))
	return []string{"nbdinfo " + uri, "qemu-img info " + uri, kernelClient(at, name)}
}

// nbdURI writes an export as an NBD URI (NetworkBlockDevice/nbd, doc/uri.md).
func nbdURI(at config.Address, name string) string {
	if at.Network == "unix" {
		return "nbd+unix:///" + escapeURI(name, "") + "?socket=" + escapeURI(at.Addr, "/")
	}
	host, port := reachable(at)
	return "nbd://" + net.JoinHostPort(host, port) + "/" + escapeURI(name, "")
}

// kernelClient attaches the kernel's driver.
func kernelClient(at config.Address, name string) string {
	to := "-unix " + quoteShell(at.Addr)
	if at.Network != "unix" {
		host, port := reachable(at)
		to = host + " " + port
	}
	cmd := "nbd-client " + to + " /dev/nbd0"
	if name != "" {
		cmd += " -N " + quoteShell(name)
	}
	return cmd
}

// reachable is where this host reaches a TCP listener: one on all addresses is
// reached on loopback.
func reachable(at config.Address) (host, port string) {
	host, port, err := net.SplitHostPort(at.Addr)
	if err != nil {
		return at.Addr, ""
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil || !ip.IsUnspecified():
		return host, port
	case ip.Is4():
		return "127.0.0.1", port
	}
	return "::1", port
}

// escapeURI escapes every byte but those that no part of a URI gives a meaning
// (RFC 3986, section 2.3), and those of also.
func escapeURI(s, also string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isWord(c) || strings.IndexByte("-._~"+also, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// quoteShell writes one word of a shell command. Bytes that a terminal could
// take for orders are written as $'\xHH' (bash, zsh and ksh).
func quoteShell(s string) string {
	plain := s != ""
	for i := range len(s) {
		plain = plain && (isWord(s[i]) || strings.IndexByte("-._/:@%+=,", s[i]) >= 0)
	}
	printable := utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	switch {
	case plain:
		return s
	case printable:
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return quoteControl(s)
}

func quoteControl(s string) string {
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}
