//go:build wasip1

// Command badnbd is the nbd plugin with a fault, for tests of live upgrades: a
// version that should not have been shipped. What it does wrong is not known to
// the compiler: a test builds the module once and writes the fault's name into
// copies of it, over the filling of the variable fault.
//
// Read first: conn.go.
package main

import (
	"blockengine/plugins/nbd"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/wasm"
)

// fault is "fault:", the name of what is done wrong, and dots. A test finds the
// place by the 40 characters below.
var fault = "fault:.................................."

// name gives the fault's name, "" if nobody has written one.
func name() string {
	n := fault[len("fault:"):]
	for len(n) > 0 && n[len(n)-1] == '.' {
		n = n[:len(n)-1]
	}
	return n
}

func init() {
	nbd.Version = "bad-" + name()
	wasm.Serve(plugin{nbd.Plugin(), name()})
}

func main() {}

// plugin is the nbd plugin but for its fault.
type plugin struct {
	protocol.Plugin
	fault string
}

func (p plugin) Manifest() manifest.Manifest {
	m := p.Plugin.Manifest()
	switch p.fault {
	case "other-name":
		m.Name = "iscsi"
	case "other-option":
		m.Options[0].Name = "namespace"
	case "more-required":
		m.Options = append(m.Options, manifest.Option{Name: "token", Type: manifest.String, Required: true, Help: "new in this version"})
	}
	return m
}

func (p plugin) NewConn() protocol.Conn {
	return &conn{Conn: p.Plugin.NewConn(), fault: p.fault}
}
