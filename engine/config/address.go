package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// Address is where to listen or connect: its fields are what net.Dial takes.
// The zero value is no address.
type Address struct {
	Network string // tcp | unix
	Addr    string // HOST:PORT, IPv6 in brackets | absolute path
}

// String writes the address as in the file: tcp:HOST:PORT or unix:PATH.
func (a Address) String() string {
	if a == (Address{}) {
		return ""
	}
	return a.Network + ":" + a.Addr
}

// Loopback tells whether only this host can reach the address. A host name is
// taken to be beyond, but for localhost.
func (a Address) Loopback() bool {
	if a.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// maxUnixPath is what sun_path holds beside its final NUL (unix(7)).
const maxUnixPath = 107

const addressFix = "write tcp:HOST:PORT or unix:PATH"

// ParseAddress reads tcp:HOST:PORT or unix:PATH; a relative path starts at dir.
// Port 0 is allowed, for listeners that take any. The error is a *ValueError.
func ParseAddress(dir, s string) (Address, error) {
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme {
	case "tcp":
		hostPort, err := parseHostPort(s, rest, `"tcp:127.0.0.1:10809"`)
		if err != nil {
			return Address{}, err
		}
		return Address{"tcp", hostPort}, nil
	case "unix":
		path, err := parseSocketPath(dir, rest)
		if err != nil {
			return Address{}, err
		}
		return Address{"unix", path}, nil
	case "tls":
		return Address{}, &ValueError{quote(s) + " asks for TLS, which is not in this version", addressFix}
	}
	return Address{}, &ValueError{quote(s) + " is no address", addressFix}
}

// parseHostPort checks hostPort, a part of the value s, and writes it in one
// form only, so that equal addresses compare equal.
func parseHostPort(s, hostPort, example string) (string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", &ValueError{quote(s) + " is no HOST:PORT",
			"write a host and a port, an IPv6 host in brackets, as in " + example}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", &ValueError{fmt.Sprintf("%s has no port number", quote(s)),
			"write a port from 1 to 65535, as in " + example}
	}
	if host, err = parseHost(s, host, example); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

func parseHost(s, host, example string) (string, error) {
	if host == "" {
		return "", &ValueError{quote(s) + " has no host",
			"write one, as in " + example + "; 0.0.0.0 or [::] are all addresses of this host"}
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), nil
	}
	if !isHostName(host) {
		return "", &ValueError{quote(s) + " has neither an IP address nor a host name",
			"write a host and a port, an IPv6 host in brackets, as in " + example}
	}
	return strings.ToLower(host), nil
}

// isHostName tells a name that a resolver may know (RFC 1123, and underscores)
// from a mistyped IPv4 address: the last label of a name is never a number.
func isHostName(host string) bool {
	if len(host) > 253 {
		return false
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !isBareKey(label[i]) {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// parseSocketPath resolves the path of a Unix socket.
func parseSocketPath(dir, path string) (string, error) {
	abs, err := parsePath(dir, path)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(path, "/") {
		return "", &ValueError{quote(path) + " is a directory", "add the name of the socket"}
	}
	if len(abs) > maxUnixPath {
		return "", &ValueError{
			fmt.Sprintf("%s is %d bytes long as the absolute path %s", quote(path), len(abs), quote(abs)),
			fmt.Sprintf("a Unix socket's path has at most %d bytes, choose a shorter one", maxUnixPath)}
	}
	return abs, nil
}

// parsePath resolves a path against the directory of the file.
func parsePath(dir, path string) (string, error) {
	switch {
	case path == "":
		return "", &ValueError{"is an empty path", "write a path"}
	case strings.ContainsRune(path, 0):
		return "", &ValueError{quote(path) + " holds a NUL byte, as no path does", "remove it"}
	case filepath.IsAbs(path):
		return filepath.Clean(path), nil
	}
	return filepath.Join(dir, path), nil
}
