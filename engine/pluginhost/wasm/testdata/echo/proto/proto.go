// Package proto is a protocol for the tests of the wasm runtime. A request
// becomes a header of 16 bytes, and the write's payload after it; a reply of 8
// bytes is the tag of the request that it completes. The option "mode" makes
// it misbehave in the ways that only a Go guest can.
package proto

import (
	"encoding/binary"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// Plugin is the protocol.
type Plugin struct{}

// Manifest names the plugin and its option.
func (Plugin) Manifest() manifest.Manifest {
	return manifest.Manifest{Name: "echo", Version: "1.2.3", Options: []manifest.Option{
		{Name: "mode", Type: manifest.String, Help: "how to misbehave: \"panic\", \"spin\", \"hoard\""},
		{Name: "size", Type: manifest.Size, Required: true},
		{Name: "key", Secret: true},
	}}
}

// NewConn makes a connection.
func (Plugin) NewConn() protocol.Conn { return &conn{} }

type conn struct {
	protocol.Base
	mode    string
	hoard   [][]byte
	garbage []byte
}

// Opened logs in at once.
func (c *conn) Opened(a *protocol.Actions, o *protocol.Opened) {
	c.mode = o.Option("mode")
	a.Limits(&protocol.Limits{Info: block.Info{Size: 1 << 30, BlockSize: 512}})
}

// Submit sends a header for each request.
func (c *conn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	if c.mode != "" {
		c.misbehave()
	}
	for i := range batch {
		r := &batch[i]
		b := a.SendBuffer(16)
		binary.BigEndian.PutUint64(b, r.Tag)
		binary.BigEndian.PutUint64(b[8:], r.Offset)
		if r.Op == block.OpWrite {
			a.SendPayload(r.Tag, 0, r.Length)
		}
	}
	return len(batch)
}

func (c *conn) misbehave() {
	switch c.mode {
	case "panic":
		panic("told to panic")
	case "spin":
		for c.mode == "spin" {
			c.garbage = nil
		}
	case "hoard":
		for {
			c.hoard = append(c.hoard, make([]byte, 1<<20))
		}
	}
}

// Received completes a request for each whole reply.
func (c *conn) Received(a *protocol.Actions, b []byte) int {
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		a.Complete(binary.BigEndian.Uint64(b[n:]), 0)
	}
	return n
}

// Timer makes garbage for the collector.
func (c *conn) Timer(a *protocol.Actions, id uint32, _ protocol.Clock) {
	for range 16 {
		c.garbage = make([]byte, 64<<10)
	}
	a.SetTimer(id, 1e9)
}

var _ = abi.Version
