// Package server is a server of the tiny protocol: bytes in, bytes out, or over
// a network connection.
package server

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync"

	"blockengine/sdk/block"
	"blockengine/sdk/sdktest/testplugins/tiny"
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Disk is what all connections of a server share.
type Disk struct {
	Credits uint32 // outstanding requests of a connection; 0: 64
	// Pieces makes reads come as several pieces, the last first.
	Pieces bool
	// Transformed says that the clients' plugin turns payload over: writes are
	// confirmed with their length.
	Transformed bool
	// Hold says which requests are not answered until they are cancelled.
	Hold func(op block.Op, offset uint64) bool
	// BadDigest makes the digests of read data wrong.
	BadDigest bool

	mu    sync.Mutex // guards what follows
	data  []byte
	token uint64
}

// NewDisk makes a disk of size bytes.
func NewDisk(size int) *Disk { return &Disk{data: make([]byte, size)} }

// Fill gives the disk a size, if it has none.
func (d *Disk) Fill(size int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.data == nil {
		d.data = make([]byte, size)
	}
}

// Bytes copies a part of the disk.
func (d *Disk) Bytes(offset, length int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.data[offset:offset+length]...)
}

// Conn is one connection.
type Conn struct {
	disk     *Disk
	in       []byte
	features uint32
	held     map[uint64]bool
	Pings    int
	Cancels  int
	News     []byte // sent with the next answer
	closed   bool
}

// Connect makes a connection.
func (d *Disk) Connect() *Conn { return &Conn{disk: d, held: map[uint64]bool{}} }

// Answer takes what the client sent and gives what the server sends.
func (c *Conn) Answer(b []byte) (out []byte, closed bool) {
	c.in = append(c.in, b...)
	for !c.closed {
		n := c.need()
		if n == 0 || len(c.in) < n {
			break
		}
		out = append(out, c.request(c.in[:n])...)
		c.in = c.in[n:]
	}
	if c.features != 0 || len(out) > 0 {
		out = append(out, c.News...)
		c.News = nil
	}
	return out, c.closed
}

// Serve answers a client until it is gone.
func (d *Disk) Serve(rw io.ReadWriter) error {
	c := d.Connect()
	b := make([]byte, 64<<10)
	for {
		n, err := rw.Read(b)
		if err != nil {
			return err
		}
		out, closed := c.Answer(b[:n])
		if _, err := rw.Write(out); err != nil || closed {
			return err
		}
	}
}

// maxLength bounds a request's payload.
const maxLength = 64 << 20

// need is how long the first request is, 0 if that is not known yet.
func (c *Conn) need() int {
	if len(c.in) < tiny.SizeRequest {
		return 0
	}
	n := tiny.SizeRequest
	if block.Op(c.in[0]) != block.OpWrite {
		return n
	}
	length := le.Uint32(c.in[4:])
	if length > maxLength {
		c.closed = true
		return 0
	}
	n += int(length)
	if c.features&tiny.FeatureHash != 0 {
		n += sha256.Size
	}
	if c.features&tiny.FeatureDigest != 0 {
		n += 4
	}
	return n
}

// Reply makes a reply.
func Reply(status block.Status, kind uint8, cookie uint64, body []byte) []byte {
	b := le.AppendUint16(nil, uint16(status))
	b = le.AppendUint32(append(b, kind, 0), uint32(len(body)))
	return append(le.AppendUint64(b, cookie), body...)
}

func (c *Conn) request(b []byte) []byte {
	op, length, cookie, offset := b[0], le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:])
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	switch op {
	case tiny.OpHello:
		return c.hello(length, offset)
	case tiny.OpBye:
		c.closed = true
		return nil
	case tiny.OpPing:
		c.Pings++
		return Reply(0, tiny.ReplyEnd, 0, nil)
	case tiny.OpCancel:
		c.Cancels++
		out := Reply(0, tiny.ReplyEnd, 0, nil)
		if c.held[offset] {
			delete(c.held, offset)
			out = append(out, Reply(0, tiny.ReplyCancelled, offset, nil)...)
		}
		return out
	}
	if c.disk.Hold != nil && c.disk.Hold(block.Op(op), offset) {
		c.held[cookie] = true
		return nil
	}
	if offset+uint64(length) > uint64(len(c.disk.data)) || offset > uint64(len(c.disk.data)) {
		return Reply(block.EINVAL, tiny.ReplyEnd, cookie, nil)
	}
	return c.execute(block.Op(op), cookie, offset, uint64(length), b)
}

func (c *Conn) hello(features uint32, token uint64) []byte {
	d := c.disk
	c.features = features
	if d.token == 0 {
		d.token = 0x70ce
	}
	if features&tiny.FeatureSession != 0 && token != 0 && token != d.token {
		return Reply(block.ESTALE, tiny.ReplyHello, 0, make([]byte, 24))
	}
	credits := d.Credits
	if credits == 0 {
		credits = 64
	}
	b := le.AppendUint64(nil, uint64(len(d.data)))
	b = le.AppendUint32(le.AppendUint32(b, 512), credits)
	return Reply(0, tiny.ReplyHello, 0, le.AppendUint64(b, d.token))
}

func (c *Conn) execute(op block.Op, cookie, offset, length uint64, b []byte) []byte {
	data := c.disk.data[offset : offset+length]
	switch op {
	case block.OpRead:
		return c.read(cookie, data)
	case block.OpWrite:
		payload, status := c.payload(b, length)
		copy(data, payload)
		var body []byte
		if c.disk.Transformed {
			body = le.AppendUint64(nil, length)
		}
		return Reply(status, tiny.ReplyEnd, cookie, body)
	case block.OpWriteZeroes, block.OpDiscard:
		for i := range data {
			data[i] = c.zero()
		}
	case block.OpBlockStatus:
		body := le.AppendUint64(le.AppendUint64(nil, length), 0)
		return append(Reply(0, tiny.ReplyExtents, cookie, body), Reply(0, tiny.ReplyEnd, cookie, nil)...)
	case block.OpFlush, block.OpCache:
	default:
		return Reply(block.ENOTSUP, tiny.ReplyEnd, cookie, nil)
	}
	return Reply(0, tiny.ReplyEnd, cookie, nil)
}

// zero is how the client stores a zero.
func (c *Conn) zero() byte {
	if c.disk.Transformed {
		return 0xff
	}
	return 0
}

// payload checks a write's hash and digest and gives its payload.
func (c *Conn) payload(b []byte, length uint64) ([]byte, block.Status) {
	head, rest := b[:tiny.SizeRequest], b[tiny.SizeRequest:]
	var sum []byte
	if c.features&tiny.FeatureHash != 0 {
		sum, rest = rest[:sha256.Size], rest[sha256.Size:]
	}
	payload, rest := rest[:length], rest[length:]
	if got := sha256.Sum256(payload); sum != nil && string(got[:]) != string(sum) {
		return nil, block.EBADMSG
	}
	if c.features&tiny.FeatureDigest != 0 {
		crc := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, payload)
		if le.Uint32(rest) != crc {
			return nil, block.EBADMSG
		}
	}
	return payload, block.OK
}

// read sends data as one piece, or as several, the last first, and zeroes as
// such.
func (c *Conn) read(cookie uint64, data []byte) (out []byte) {
	step := len(data)
	if c.disk.Pieces {
		step = max(len(data)/3, 1)
	}
	for end := len(data); end > 0; end -= step {
		from := max(end-step, 0)
		out = append(out, c.readPiece(cookie, uint64(from), data[from:end])...)
	}
	return append(out, Reply(0, tiny.ReplyEnd, cookie, nil)...)
}

func (c *Conn) readPiece(cookie, at uint64, data []byte) []byte {
	zero := true
	for _, b := range data {
		if b != c.zero() {
			zero = false
			break
		}
	}
	if zero {
		return Reply(0, tiny.ReplyZero, cookie, le.AppendUint64(le.AppendUint64(nil, at), uint64(len(data))))
	}
	body := append(le.AppendUint64(nil, at), data...)
	if c.features&tiny.FeatureDigest != 0 {
		crc := crc32.Checksum(data, castagnoli)
		if c.disk.BadDigest {
			crc++
		}
		body = le.AppendUint32(body, crc)
	}
	return Reply(0, tiny.ReplyData, cookie, body)
}
