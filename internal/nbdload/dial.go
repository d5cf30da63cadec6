package nbdload

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

var be = binary.BigEndian

// What of the protocol is used: fixed newstyle, GO, simple replies.
const (
	magicInit     = 0x4e42444d41474943
	magicOption   = 0x49484156454f5054
	magicOptReply = 0x0003e889045565a9
	magicRequest  = 0x25609513
	magicSimple   = 0x67446698

	fixedNewstyle = 1 << 0 // handshake and client flag
	noZeroes      = 1 << 1 // handshake and client flag

	optGo      = 7
	repAck     = 1
	repInfo    = 3
	repErrBit  = 1 << 31
	infoExport = 0
	infoBlock  = 3

	flagReadOnly  = 1 << 1 // transmission flags
	flagSendFlush = 1 << 2

	cmdRead  = 0
	cmdWrite = 1
	cmdDisc  = 2
	cmdFlush = 3

	maxName     = 4096     // bytes ("Strings")
	maxOptReply = 64 << 10 // bytes; more is not believed
	requestSize = 28
	replySize   = 16 // of a simple reply, without a read's payload
)

// export is what the server tells of it.
type export struct {
	size     uint64
	flags    uint16
	minBlock uint32 // 0: not told
	maxBlock uint32 // of a payload; 0: not told
}

// dial connects and negotiates up to the transmission phase. The file is the
// socket, in blocking mode.
func dial(ctx context.Context, o *Options) (*os.File, export, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, export{}, fmt.Errorf("nbdload: %w", err)
	}
	defer c.Close() // the file is a duplicate
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline) // a socket has them
	}
	e, err := negotiate(c, o.Export)
	if err != nil {
		return nil, e, fmt.Errorf("nbdload: handshake with %s: %w", o.Addr, err)
	}
	f, err := socketOf(c)
	if err != nil {
		return nil, e, fmt.Errorf("nbdload: %w", err)
	}
	return f, e, nil
}

// socketOf gives a connection's socket, in blocking mode.
func socketOf(c net.Conn) (*os.File, error) {
	s, ok := c.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("%T has no file", c)
	}
	f, err := s.File()
	if err != nil {
		return nil, err
	}
	if err := syscall.SetNonblock(int(f.Fd()), false); err != nil {
		return nil, errors.Join(fmt.Errorf("make the socket block: %w", err), f.Close())
	}
	return f, nil
}

// negotiate does the handshake ("Fixed newstyle negotiation").
func negotiate(c io.ReadWriter, name string) (export, error) {
	var greeting [18]byte
	if _, err := io.ReadFull(c, greeting[:]); err != nil {
		return export{}, fmt.Errorf("no greeting: %w", err)
	}
	if be.Uint64(greeting[:]) != magicInit || be.Uint64(greeting[8:]) != magicOption {
		return export{}, errors.New("this is no newstyle NBD server")
	}
	flags := be.Uint16(greeting[16:])
	if flags&fixedNewstyle == 0 {
		return export{}, errors.New("the server does not speak the fixed newstyle")
	}
	b := be.AppendUint32(nil, uint32(flags&(fixedNewstyle|noZeroes)))
	b = be.AppendUint64(b, magicOption)
	b = be.AppendUint32(b, optGo)
	b = be.AppendUint32(b, uint32(4+len(name)+4))
	b = be.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	b = be.AppendUint16(b, 1)
	b = be.AppendUint16(b, infoBlock)
	if _, err := c.Write(b); err != nil {
		return export{}, err
	}
	return goReplies(c, name)
}

// goReplies reads what GO is answered with.
func goReplies(c io.Reader, name string) (export, error) {
	var e export
	told := false
	for range 100 { // a server that never ends is not waited for
		typ, data, err := optReply(c)
		switch {
		case err != nil:
			return e, err
		case typ == repAck && !told:
			return e, errors.New("the server acknowledges GO and does not tell the export's size")
		case typ == repAck:
			return e, nil
		case typ&repErrBit != 0:
			return e, fmt.Errorf("export %q is refused (reply %#x): %q", name, typ, data[:min(len(data), 200)])
		case typ != repInfo || len(data) < 2:
			return e, fmt.Errorf("GO is answered with type %#x and %d bytes", typ, len(data))
		}
		told = e.learn(data) || told
	}
	return e, errors.New("GO is answered without end")
}

// optReply reads one reply to GO.
func optReply(c io.Reader) (uint32, []byte, error) {
	var head [20]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, fmt.Errorf("no reply to GO: %w", err)
	}
	n := be.Uint32(head[16:])
	if be.Uint64(head[:]) != magicOptReply || be.Uint32(head[8:]) != optGo || n > maxOptReply {
		return 0, nil, fmt.Errorf("broken reply to GO: % x", head)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(c, data); err != nil {
		return 0, nil, fmt.Errorf("no reply to GO: %w", err)
	}
	return be.Uint32(head[12:]), data, nil
}

// learn takes an NBD_REP_INFO and says whether it told the size. Information of
// types that were not asked for is passed over.
func (e *export) learn(b []byte) bool {
	typ, b := be.Uint16(b), b[2:]
	switch {
	case typ == infoExport && len(b) == 10:
		e.size, e.flags = be.Uint64(b), be.Uint16(b[8:])
		return true
	case typ == infoBlock && len(b) == 12:
		e.minBlock, e.maxBlock = be.Uint32(b), be.Uint32(b[8:])
	}
	return false
}

// check says whether the load can be made on this export.
func (e *export) check(o *Options) error {
	switch {
	case e.flags&flagReadOnly != 0:
		return fmt.Errorf("nbdload: export %q is read-only, and what is read could not be known", o.Export)
	case o.FlushEvery > 0 && e.flags&flagSendFlush == 0:
		return fmt.Errorf("nbdload: export %q has no flush: leave FlushEvery at 0", o.Export)
	case e.minBlock > 0 && o.BlockSize%int(e.minBlock) != 0:
		return fmt.Errorf("nbdload: block size %d is no multiple of the export's, %d", o.BlockSize, e.minBlock)
	case e.maxBlock > 0 && o.BlockSize > int(e.maxBlock):
		return fmt.Errorf("nbdload: block size %d is more than the export takes, %d", o.BlockSize, e.maxBlock)
	}
	return nil
}

// dialContext bounds the start.
func dialContext(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("nbdload: not ready to begin after %v", d))
}
