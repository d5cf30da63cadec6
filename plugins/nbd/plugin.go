// Package nbd is the protocol plugin for NBD storage servers: a client of the
// public NBD protocol that does no I/O. It turns block requests into NBD
// requests and NBD replies into completions; payload passes it by.
//
// It speaks fixed newstyle with the best reply form that the server has
// (extended headers, structured replies, simple replies), GO with EXPORT_NAME
// as the fall-back, and the metadata context base:allocation.
//
// Section names in comments are those of the protocol text (NetworkBlockDevice/nbd,
// doc/proto.md, and its branch extension-ext-header for extended headers).
//
// Read first: sdk/PLUGIN.md, then conn.go.
package nbd

import (
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// Version of the plugin. A build may set another one (-ldflags -X), which also
// changes the cookies on the wire, so that two builds can be told apart there.
var Version = "1.0.0"

// Names of the options.
const (
	optionExport      = "export"
	optionConnections = "connections"
)

// Plugin gives the NBD protocol.
func Plugin() protocol.Plugin { return plugin{} }

type plugin struct{}

func (plugin) Manifest() manifest.Manifest {
	return manifest.Manifest{
		Name:    "nbd",
		Version: Version,
		Payload: manifest.Direct,
		Options: []manifest.Option{
			{Name: optionExport, Type: manifest.String,
				Help: "name of the server's export; empty is its default export"},
			{Name: optionConnections, Type: manifest.Int,
				Help: "connections to open at most, where the server allows several; 0 leaves it to the engine"},
		},
	}
}

func (plugin) NewConn() protocol.Conn { return &conn{mask: cookieMask(Version)} }

// cookieMask makes of a version what its cookies differ by (FNV-1a, 64 bits).
func cookieMask(version string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := 0; i < len(version); i++ {
		h = (h ^ uint64(version[i])) * 0x100000001b3
	}
	return h
}
