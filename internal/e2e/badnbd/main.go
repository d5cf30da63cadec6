// Command badnbd is the nbd plugin with a fault, for tests of live upgrades: a
// version that should not have been shipped. What a connection does wrong is
// the name of its export, so that one module, which is compiled once, has all
// faults; what is wrong with the module itself a test writes into copies of it,
// over the filling of the variable manifestFault.
//
// Built for the host it is the same in a process.
//
// Read first: conn.go.
package main

import (
	"blockengine/plugins/nbd"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// manifestFault is "fault:", the name of what is wrong, and dots. A test finds
// the place by the 40 characters below.
var manifestFault = "fault:.................................."

// name gives the fault's name, "" if nobody has written one.
func name() string {
	n := manifestFault[len("fault:"):]
	for len(n) > 0 && n[len(n)-1] == '.' {
		n = n[:len(n)-1]
	}
	return n
}

func init() { nbd.Version = "bad" }

// plugin is the nbd plugin but for its faults.
type plugin struct{ protocol.Plugin }

func (p plugin) Manifest() manifest.Manifest {
	m := p.Plugin.Manifest()
	switch name() {
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
	return &conn{Conn: p.Plugin.NewConn()}
}
