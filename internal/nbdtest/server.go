package nbdtest

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// DefaultFlags is what an export of the server can do unless told otherwise.
// SEND_DF is dropped by itself where the client has no structured replies.
const DefaultFlags = FlagHasFlags | FlagSendFlush | FlagSendFUA | FlagSendTrim | FlagSendWriteZeroes |
	FlagSendDF | FlagMultiConn | FlagSendCache | FlagSendFastZero

// Export is one disk as the server offers it.
type Export struct {
	Name        string
	Description string
	Disk        *Disk
	Size        uint64     // told to clients in place of the disk's size, when not 0
	TellZero    bool       // tell the size 0
	Flags       uint16     // transmission flags; 0: DefaultFlags
	BlockSize   *BlockSize // nil: do not tell any
}

func (e *Export) size() uint64 {
	switch {
	case e.TellZero:
		return 0
	case e.Size != 0:
		return e.Size
	}
	return e.Disk.Size()
}

func (e *Export) flags() uint16 {
	if e.Flags != 0 {
		return e.Flags
	}
	return DefaultFlags
}

// Negotiation says how the server behaves in the handshake and which forms it
// uses afterwards. The zero value is a modern server without extended headers.
type Negotiation struct {
	Oldstyle        bool // greet in the oldstyle, which clients must refuse
	NotFixed        bool // newstyle but not fixed: EXPORT_NAME only
	KeepZeroes      bool // do not offer NO_ZEROES
	NoGo            bool // INFO and GO are unsupported
	NoStructured    bool // STRUCTURED_REPLY is unsupported
	NoMeta          bool // LIST/SET_META_CONTEXT are unsupported
	NoList          bool // LIST is forbidden by policy
	ExtendedHeaders bool // EXTENDED_HEADERS is supported
	NeedBlockSize   bool // GO without NBD_INFO_BLOCK_SIZE is refused
	AnyName         bool // an unknown export name gets the first export

	// Refuse answers these options with the given reply type, whatever else is set.
	Refuse map[uint32]uint32

	MaxClients  int  // 0: any number
	CloseExcess bool // close clients beyond MaxClients instead of not accepting them

	ReadChunk   uint64 // structured reads: at most so many bytes a content chunk; 0: one chunk
	ReadHoles   bool   // structured reads: holes as OFFSET_HOLE chunks
	ShuffleRead bool   // structured reads: content chunks in random order

	// CloseAtEOF drops a connection as soon as the client's half is closed,
	// whatever is outstanding. Otherwise all outstanding requests are carried out
	// and answered first, so that the server's EOF is a fence.
	CloseAtEOF bool
}

// Server is an NBD server that does as told: see Negotiation for the handshake,
// [Rule] for misbehaviour in the transmission phase, and the methods for what
// happens to connections. It ends in t's Cleanup.
type Server struct {
	t       testing.TB
	network string
	addr    string
	group   group
	closed  chan struct{} // closed by the Cleanup

	mu       sync.Mutex // guards what follows; taken before no other lock but Disk's
	slots    *sync.Cond // signalled when a connection ends or the listener stops
	neg      Negotiation
	exports  []Export
	out      Output
	listener net.Listener
	conns    map[*serverConn]bool
	nconns   int // connections accepted so far; numbers them from 1
	rules    []*activeRule
	log      []Record
	executed int
	breaches []string // by clients
	lenient  bool     // breaches do not fail the test
	reading  gate     // closed gate: no connection reads requests
	replying gate     // closed gate: no connection sends replies
}

// ServerOptions start a server.
type ServerOptions struct {
	Network     string // "unix" (default) or "tcp"
	Addr        string // default: a fresh socket path, or a free port of 127.0.0.1
	Exports     []Export
	Negotiation Negotiation
	// BadClients: breaches of the protocol by clients do not fail the test. They
	// can be read from Violations either way.
	BadClients bool
}

// StartServer starts listening. Without exports it serves one of 64 MiB under
// the empty name.
func StartServer(t testing.TB, o ServerOptions) *Server {
	t.Helper()
	s := &Server{t: t, network: o.Network, addr: o.Addr, neg: o.Negotiation, exports: o.Exports, lenient: o.BadClients,
		closed: make(chan struct{}), conns: map[*serverConn]bool{}}
	s.slots = sync.NewCond(&s.mu)
	s.reading.open()
	s.replying.open()
	s.network, s.addr = defaultAddr(t, o.Network, o.Addr)
	if len(s.exports) == 0 {
		s.exports = []Export{{Disk: NewDisk(64 << 20)}}
	}
	s.Listen()
	t.Cleanup(s.end)
	return s
}

// defaultAddr fills in what was left open.
func defaultAddr(t testing.TB, network, addr string) (string, string) {
	if network == "" {
		network = "unix"
	}
	if addr == "" && network == "unix" {
		addr = filepath.Join(SocketDir(t), "nbd")
	} else if addr == "" {
		addr = "127.0.0.1:0"
	}
	return network, addr
}

func (s *Server) end() {
	close(s.closed)
	s.StopListening()
	s.KillAll(FIN)
	s.reading.open()
	s.replying.open()
	s.mu.Lock()
	s.slots.Broadcast()
	s.mu.Unlock()
	s.group.end(s.t, "the server at "+s.addr)
	for _, v := range s.Violations() {
		if !s.lenient {
			s.t.Errorf("nbdtest: a client broke the protocol: %s", v)
		}
	}
}

// Network of the listener: "unix" or "tcp".
func (s *Server) Network() string { return s.network }

// Addr of the listener; it stays the same over StopListening and Listen.
func (s *Server) Addr() string { return s.addr }

// URI under which stock clients reach an export.
func (s *Server) URI(export string) string { return nbdURI(s.network, s.addr, export) }

// Disk of an export, nil if there is none of that name.
func (s *Server) Disk(export string) *Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.exports {
		if e.Name == export {
			return e.Disk
		}
	}
	return nil
}

// SetExports replaces the exports for connections to come: another disk, size
// or name. Connections that are there keep what they have.
func (s *Server) SetExports(exports ...Export) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exports = exports
}

// SetNegotiation changes the behaviour for connections to come.
func (s *Server) SetNegotiation(change func(*Negotiation)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.neg)
}

// Listen opens the listener again after StopListening, at the same address.
func (s *Server) Listen() {
	s.t.Helper()
	l, err := listen(s.network, s.addr)
	if err != nil {
		s.t.Fatalf("nbdtest: cannot listen: %v", err)
	}
	s.mu.Lock()
	s.listener = l
	if addr := l.Addr().String(); addr != s.addr { // port 0, at the first call only
		s.addr = addr
	}
	s.mu.Unlock()
	s.group.run("accept", func() { s.accept(l) })
}

// listen retries for a moment: an address can be busy just after its last user.
func listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	var err error
	for range 50 {
		if l, err = net.Listen(network, addr); err == nil {
			return l, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("listen %s %s: %w", network, addr, err)
}

// StopListening refuses connections to come; those that are there stay.
func (s *Server) StopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		s.listener.Close()
		s.listener = nil
	}
	s.slots.Broadcast()
}

// Kill stops listening and ends all connections: a server that dies. Held
// writes stay held.
func (s *Server) Kill(how Ending) {
	s.StopListening()
	s.KillAll(how)
}

// KillAll ends all connections at once, whatever is outstanding.
func (s *Server) KillAll(how Ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.kill(how)
	}
}

// Conns is the number of live connections.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Accepted is the number of connections ever accepted.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nconns
}

// StallReads makes the server stop reading requests on all connections until
// release is called. What a connection is in the middle of reading is finished.
func (s *Server) StallReads() (release func()) { return s.reading.close() }

// StallReplies makes the server stop sending replies until release is called;
// requests are still read and carried out.
func (s *Server) StallReplies() (release func()) { return s.replying.close() }

func (s *Server) accept(l net.Listener) {
	for s.waitSlot(l) {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.listener != l || (s.neg.MaxClients > 0 && len(s.conns) >= s.neg.MaxClients) {
			s.mu.Unlock()
			conn.Close()
			continue
		}
		s.nconns++
		c := newServerConn(s, conn)
		s.conns[c] = true
		s.mu.Unlock()
		s.group.run(fmt.Sprintf("connection %d", c.num), func() {
			c.serve()
			s.forget(c)
		})
	}
}

// waitSlot waits until another client may be accepted; false: the listener is gone.
func (s *Server) waitSlot(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.listener == l && !s.neg.CloseExcess && s.neg.MaxClients > 0 && len(s.conns) >= s.neg.MaxClients {
		s.slots.Wait()
	}
	return s.listener == l
}

func (s *Server) forget(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.slots.Broadcast()
}
