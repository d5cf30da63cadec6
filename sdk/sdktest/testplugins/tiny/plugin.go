// Package tiny is a small block protocol with a plugin and a server (package
// server), made to test the plugin contract: each of its features uses a part
// of the contract that NBD has no use for.
package tiny

import (
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// Plugin gives the protocol; payload passes the plugin by.
func Plugin() protocol.Plugin { return plugin{payload: manifest.Direct, name: "tiny"} }

// Transforming gives a variant that sees all payload and stores it with every
// bit turned over, as an encrypting plugin would. It has no digests.
func Transforming() protocol.Plugin { return plugin{payload: manifest.Copy, name: "tiny-copy"} }

type plugin struct {
	payload manifest.Payload
	name    string
}

func (p plugin) Manifest() manifest.Manifest {
	return manifest.Manifest{
		Name: p.name, Version: "1", Payload: p.payload,
		Options: []manifest.Option{
			{Name: "features", Type: manifest.String, Help: "features to use, with commas between them: digest, hash, credits, keepalive, session"},
			{Name: "key", Type: manifest.String, Secret: true, Help: "a secret that is not used"},
		},
	}
}

func (p plugin) NewConn() protocol.Conn { return NewConn(p.payload == manifest.Copy) }

// features reads the option.
func features(s string) (bits uint32) {
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != ',' {
			continue
		}
		for bit, name := range featureNames {
			if s[start:i] == name {
				bits |= 1 << bit
			}
		}
		start = i + 1
	}
	return bits
}
