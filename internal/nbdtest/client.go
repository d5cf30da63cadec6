package nbdtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Options say how [Dial] negotiates. The zero value asks for the default export
// with GO, simple replies and no metadata.
type Options struct {
	Export       string
	Structured   bool     // ask for structured replies; refusal is not an error
	Extended     bool     // ask for extended headers; refusal is not an error
	MetaContexts []string // SET_META_CONTEXT queries; need Structured or Extended
	ExportName   bool     // end with EXPORT_NAME and never try GO
	NoFallback   bool     // fail where GO is unsupported instead of using EXPORT_NAME
	NoBlockSize  bool     // do not ask for size constraints in GO
	WithZeroes   bool     // do not offer NO_ZEROES
	AnyErrno     bool     // accept error values outside the protocol's list
	Timeout      time.Duration
}

// Client is one connection to an NBD server. It believes nothing: every breach
// of the protocol is a [*ProtocolError], after which the client is poisoned and
// returns that error for ever.
//
// Send and Recv may be called by two goroutines, one each; everything else by
// one at a time. Every call ends within Options.Timeout (default 10 s).
type Client struct {
	opts    Options
	conn    net.Conn
	timeout time.Duration

	Handshake  uint16            // the server's handshake flags
	Structured bool              // structured replies are negotiated
	Extended   bool              // extended headers are negotiated
	Contexts   map[uint32]string // selected metadata contexts by id
	Info       ExportInfo        // of the export in use, after GO or EXPORT_NAME
	noZeroes   bool

	mu      sync.Mutex          // guards what follows; never held while on the wire
	pending map[uint64]*pending // requests without a complete reply, by cookie
	cookie  uint64
	poison  error
}

// ExportInfo is what a server tells about an export.
type ExportInfo struct {
	Size        uint64
	Flags       uint16 // transmission flags
	Name        string // canonical name, if told
	Description string
	BlockSize   *BlockSize // nil: not told, defaults apply
}

// BlockSize is the set of size constraints of an export, in bytes.
type BlockSize struct{ Min, Preferred, MaxPayload uint32 }

// DialRaw connects and sends nothing: the stage before the handshake.
func DialRaw(network, addr string, o Options) (*Client, error) {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	conn, err := net.DialTimeout(network, addr, o.Timeout)
	if err != nil {
		return nil, err
	}
	return NewClient(conn, o), nil
}

// NewClient puts a client on a connection that exists; it owns conn from now on.
func NewClient(conn net.Conn, o Options) *Client {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	return &Client{opts: o, conn: conn, timeout: o.Timeout, pending: map[uint64]*pending{}}
}

// Dial connects and negotiates up to the transmission phase.
func Dial(network, addr string, o Options) (*Client, error) {
	c, err := DialRaw(network, addr, o)
	if err != nil {
		return nil, err
	}
	if err := c.negotiate(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Connect is [Dial] for tests: fails t on an error and closes in its Cleanup.
func Connect(t testing.TB, network, addr string, o Options) *Client {
	t.Helper()
	c, err := Dial(network, addr, o)
	if err != nil {
		t.Fatalf("nbdtest: cannot open export %q of %s %s: %v", o.Export, network, addr, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (c *Client) negotiate() error {
	if err := c.Greet(); err != nil {
		return err
	}
	if err := c.negotiateReplies(); err != nil {
		return err
	}
	if c.opts.ExportName {
		return c.UseExportName(c.opts.Export)
	}
	var infos []uint16
	if !c.opts.NoBlockSize {
		infos = append(infos, InfoBlockSize)
	}
	err := c.Go(c.opts.Export, infos...)
	var refused *OptionError
	if errors.As(err, &refused) && refused.Reply == RepErrUnsup && !c.opts.NoFallback {
		return c.UseExportName(c.opts.Export)
	}
	return err
}

// negotiateReplies asks for the reply style and metadata that Options name. An
// unsupported style is not an error, asking for metadata without any is.
func (c *Client) negotiateReplies() error {
	if c.opts.Extended {
		if err := ignoreRefusal(c.AskExtendedHeaders()); err != nil {
			return err
		}
	}
	if c.opts.Structured && !c.Extended {
		if err := ignoreRefusal(c.AskStructuredReply()); err != nil {
			return err
		}
	}
	if len(c.opts.MetaContexts) > 0 && (c.Structured || c.Extended) {
		return ignoreRefusal(c.SetMetaContext(c.opts.Export, c.opts.MetaContexts...))
	}
	return nil
}

func ignoreRefusal(err error) error {
	var refused *OptionError
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// Conn is the socket itself, for tests that do what a client must not.
func (c *Client) Conn() net.Conn { return c.conn }

// Close drops the connection without a word (a hard disconnect).
func (c *Client) Close() error { return c.conn.Close() }

// Reset drops the connection with a RST where the transport has one.
func (c *Client) Reset() error { return abort(c.conn) }

// CloseWrite half-closes: the server sees EOF and can still answer.
func (c *Client) CloseWrite() error {
	hc, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T has no half-close", c.conn)
	}
	return hc.CloseWrite()
}

// WriteRaw sends bytes as they are, at any stage.
func (c *Client) WriteRaw(b []byte) error {
	c.conn.SetWriteDeadline(time.Now().Add(c.timeout))
	_, err := c.conn.Write(b)
	return err
}

// ReadRaw receives exactly n bytes, at any stage. The memory grows with what
// arrives, not with n.
func (c *Client) ReadRaw(n int) ([]byte, error) {
	c.conn.SetReadDeadline(time.Now().Add(c.timeout))
	if n <= 1<<20 {
		b := make([]byte, n)
		_, err := io.ReadFull(c.conn, b)
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(c.conn, int64(n)))
	if err == nil && len(b) < n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// ExpectClosed reports nil once the server closed the connection having sent
// nothing more. Reset counts as closed; silence until the timeout does not.
func (c *Client) ExpectClosed() error {
	c.conn.SetReadDeadline(time.Now().Add(c.timeout))
	var b [1]byte
	n, err := c.conn.Read(b[:])
	if n > 0 {
		return violation("end of connection", "unexpected byte %#x", b[0])
	}
	if isTimeout(err) {
		return fmt.Errorf("the server did not close the connection within %v", c.timeout)
	}
	return nil
}
