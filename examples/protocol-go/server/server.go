// Package server is a server for the plugin to be tried with: a disk in memory.
package server

import (
	"encoding/binary"
	"net"
	"sync"
)

const blockSize = 512

var le = binary.LittleEndian

// Disk is what all connections share.
type Disk struct {
	mu   sync.Mutex // guards data
	data []byte
}

// New makes a disk of size bytes.
func New(size int) *Disk { return &Disk{data: make([]byte, size)} }

// Connect gives the server's side of a connection: a function that takes what
// the client sent and gives what the server sends then. The first call, with
// nothing, gives the greeting.
func (d *Disk) Connect() func(b []byte) (answer []byte, closed bool) {
	var in []byte
	greeted := false
	return func(b []byte) (out []byte, closed bool) {
		if !greeted {
			greeted = true
			out = le.AppendUint64([]byte("plain01\n"), uint64(len(d.data)))
			out = le.AppendUint32(le.AppendUint32(out, blockSize), 0)
		}
		in = append(in, b...)
		for len(in) >= 24 {
			op, length := le.Uint32(in), le.Uint32(in[4:])
			n := 24
			if op == 2 {
				n += int(length)
			}
			if length > 64<<20 {
				return out, true
			}
			if len(in) < n {
				break
			}
			out = append(out, d.answer(op, length, in[:n])...)
			in = in[n:]
		}
		return out, false
	}
}

func (d *Disk) answer(op, length uint32, request []byte) []byte {
	cookie, offset := le.Uint64(request[8:]), le.Uint64(request[16:])
	d.mu.Lock()
	defer d.mu.Unlock()
	size := uint64(len(d.data))
	switch {
	case op == 3:
		return reply(0, cookie, nil)
	case op != 1 && op != 2 || offset > size || uint64(length) > size-offset:
		return reply(22, cookie, nil) // EINVAL
	case op == 2:
		copy(d.data[offset:], request[24:])
		return reply(0, cookie, nil)
	}
	return reply(0, cookie, d.data[offset:offset+uint64(length)])
}

func reply(errno uint32, cookie uint64, data []byte) []byte {
	b := le.AppendUint32(le.AppendUint32(nil, errno), uint32(len(data)))
	return append(le.AppendUint64(b, cookie), data...)
}

// Serve answers clients until the listener is closed.
func (d *Disk) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go d.serve(c)
	}
}

func (d *Disk) serve(c net.Conn) {
	defer c.Close()
	answer := d.Connect()
	b := make([]byte, 64<<10)
	for n := 0; ; {
		out, closed := answer(b[:n])
		if _, err := c.Write(out); err != nil || closed {
			return
		}
		var err error
		if n, err = c.Read(b); err != nil {
			return
		}
	}
}
