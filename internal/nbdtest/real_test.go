package nbdtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// exercise drives a real server with every command that it offers.
func exercise(t *testing.T, c *Client) {
	t.Helper()
	f := c.Info.Flags
	data := pattern(64<<10, 3)
	mustDo(t, c.Write(1<<20, data, 0))
	mustRead(t, c, 1<<20, data)
	if f&FlagSendFUA != 0 {
		mustDo(t, c.Write(1<<20, data[:4096], CmdFlagFUA))
	}
	if f&FlagSendFlush != 0 {
		mustDo(t, c.Flush())
	}
	if f&FlagSendWriteZeroes != 0 {
		mustDo(t, c.WriteZeroes(1<<20, 8192, 0))
		clear(data[:8192])
		mustRead(t, c, 1<<20, data)
	}
	if f&FlagSendTrim != 0 {
		mustDo(t, c.Trim(2<<20, 65536, 0))
	}
	if f&FlagSendCache != 0 {
		mustDo(t, c.Cache(1<<20, 4096, 0))
	}
	if f&FlagSendDF != 0 {
		rep, err := c.Do(Request{Op: CmdRead, Flags: CmdFlagDF, Offset: 1 << 20, Length: 65536})
		if err != nil || !bytes.Equal(rep.Data, data) {
			t.Errorf("read with DF: %v", err)
		}
	}
	pipelined(t, c)
}

// pipelined has many reads and writes outstanding at once.
func pipelined(t *testing.T, c *Client) {
	t.Helper()
	for i := range uint64(32) {
		r := Request{Op: CmdRead, Offset: i * 4096, Length: 4096}
		if i%2 == 0 {
			r = Request{Op: CmdWrite, Offset: i * 4096, Data: pattern(4096, byte(i))}
		}
		_, err := c.Send(r)
		mustDo(t, err)
	}
	for range 32 {
		rep, err := c.Recv()
		mustDo(t, err)
		mustDo(t, rep.Err)
	}
	mustRead(t, c, 30*4096, pattern(4096, 30))
}

func realServers(t *testing.T) map[string]func(t *testing.T) (*Real, string) {
	return map[string]func(t *testing.T) (*Real, string){
		"nbdkit": func(t *testing.T) (*Real, string) { return StartNbdkit(t, "memory", "16M"), "" },
		"nbdkit with cache and small blocks": func(t *testing.T) (*Real, string) {
			return StartNbdkit(t, "--filter=cow", "--filter=blocksize-policy", "memory", "16M", "blocksize-minimum=512"), ""
		},
		"qemu-nbd":            func(t *testing.T) (*Real, string) { return StartQemuNBD(t, Image(t, 16<<20, nil)), "" },
		"qemu-storage-daemon": func(t *testing.T) (*Real, string) { return StartQSD(t, Image(t, 16<<20, nil)), "disk" },
		"nbd-server":          func(t *testing.T) (*Real, string) { return StartNbdServer(t, Image(t, 16<<20, nil)), "disk" },
	}
}

func TestClientAgainstRealServers(t *testing.T) {
	for name, start := range realServers(t) {
		t.Run(name, func(t *testing.T) {
			r, export := start(t)
			for style, o := range allStyles {
				for _, old := range []bool{false, true} {
					o.Export, o.ExportName = export, old
					c, err := Dial(r.Network(), r.Addr(), o)
					if err != nil {
						t.Fatalf("%s: %v", style, err)
					}
					if c.Info.Size != 16<<20 {
						t.Errorf("%s: size %d", style, c.Info.Size)
					}
					exercise(t, c)
					if err := c.Disconnect(); err != nil {
						t.Errorf("%s: %v", style, err)
					}
					c.Close()
					if name == "nbd-server" {
						<-r.Done()
						r.Restart()
					}
				}
			}
		})
	}
}

func TestBlockStatusOfRealServers(t *testing.T) {
	for name, start := range realServers(t) {
		if name == "nbd-server" {
			continue // 3.24 has no metadata contexts
		}
		t.Run(name, func(t *testing.T) {
			r, export := start(t)
			c := Connect(t, r.Network(), r.Addr(), Options{Export: export, Structured: true, MetaContexts: []string{BaseAllocation}})
			mustDo(t, c.Write(1<<20, pattern(1<<20, 1), 0))
			got, err := c.BlockStatus(0, 16<<20, 0)
			mustDo(t, err)
			if len(got) < 2 || got[0].Flags&StateZero == 0 || !slices.ContainsFunc(got, func(e Extent) bool { return e.Flags == 0 }) {
				t.Errorf("extents %v, want zeroes first and data somewhere", got)
			}
			one, err := c.BlockStatus(0, 16<<20, CmdFlagReqOne)
			if err != nil || len(one) != 1 {
				t.Errorf("REQ_ONE: %v %v", one, err)
			}
		})
	}
}

func TestListAndAbortOfRealServers(t *testing.T) {
	for name, start := range realServers(t) {
		t.Run(name, func(t *testing.T) {
			r, export := start(t)
			c, err := DialRaw(r.Network(), r.Addr(), Options{})
			mustDo(t, err)
			defer c.Close()
			mustDo(t, c.Greet())
			list, err := c.List()
			if err != nil || len(list) != 1 || list[0].Name != export {
				t.Errorf("list %v %v", list, err)
			}
			mustDo(t, c.Abort())
		})
	}
}

func TestRestartAfterKill(t *testing.T) {
	CheckLeaks(t)
	r := StartQemuNBD(t, Image(t, 1<<20, []byte("hello")))
	c := Connect(t, r.Network(), r.Addr(), Options{})
	mustRead(t, c, 0, []byte("hello"))
	r.Kill()
	mustDo(t, c.ExpectClosed())
	r.Restart()
	mustRead(t, Connect(t, r.Network(), r.Addr(), Options{}), 0, []byte("hello"))
	mustDo(t, r.Terminate())
}

// variants of the lying server that must all be good servers for real clients.
var variants = map[string]Negotiation{
	"modern":      {},
	"fragmented":  {ReadChunk: 3000, ReadHoles: true, ShuffleRead: true},
	"no GO":       {NoGo: true},
	"simple":      {NoStructured: true, NoMeta: true},
	"with zeroes": {KeepZeroes: true, NoGo: true},
	"extended":    {ExtendedHeaders: true},
}

func TestRealClientsAgainstServer(t *testing.T) {
	image := Image(t, 8<<20, append(make([]byte, 1<<20), pattern(1<<20, 9)...))
	want, err := os.ReadFile(image)
	mustDo(t, err)
	for name, neg := range variants {
		t.Run(name, func(t *testing.T) {
			s := StartServer(t, ServerOptions{Exports: []Export{{Disk: NewDisk(8 << 20)}}, Negotiation: neg})
			s.SetOutput(Output{Batch: 3, Interleave: true, Seed: 4})
			MustRun(t, 0, "nbdcopy", "--flush", image, s.URI(""))
			got := make([]byte, 8<<20)
			s.Disk("").ReadStable(got, 0)
			if !bytes.Equal(got, want) {
				t.Fatal("nbdcopy wrote something else")
			}
			MustRun(t, 0, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, s.URI(""))
			back := filepath.Join(t.TempDir(), "back")
			MustRun(t, 0, "nbdcopy", s.URI(""), back)
			if b, err := os.ReadFile(back); err != nil || !bytes.Equal(b, want) {
				t.Errorf("nbdcopy read something else (%v)", err)
			}
			MustRun(t, 0, "qemu-io", "-f", "raw", "-c", "write -P 7 64k 64k", "-c", "read -P 7 64k 64k",
				"-c", "write -z 64k 4k", "-c", "read -P 0 64k 4k", "-c", "discard 128k 64k", "-c", "flush", s.URI(""))
		})
	}
}

func TestNbdinfoAgainstServer(t *testing.T) {
	d := NewDisk(8 << 20)
	d.WriteAt(pattern(1<<20, 1), 1<<20, true)
	s := StartServer(t, ServerOptions{Exports: []Export{
		{Name: "a b/ü", Description: "odd name", Disk: d, BlockSize: &BlockSize{512, 4096, 1 << 20}},
		{Name: "ro", Disk: d, Flags: FlagHasFlags | FlagReadOnly}}})
	list := Nbdinfo(t, s.URI(""), "--list")
	if len(list) != 2 || list[0].Name != "a b/ü" || list[0].Description != "odd name" || !list[1].ReadOnly || list[1].MultiConn {
		t.Errorf("list %+v", list)
	}
	info := Nbdinfo(t, s.URI("a b/ü"))[0]
	if info.Size != 8<<20 || !info.Flush || !info.FUA || !info.Trim || !info.Zero || !info.DF || !info.MultiConn ||
		info.BlockMin != 512 || info.BlockMax != 1<<20 || !slices.Equal(info.Contexts, []string{BaseAllocation}) {
		t.Errorf("info %+v", info)
	}
	m := MustRun(t, 0, "nbdinfo", "--map", s.URI("a b/ü"))
	if lines := strings.Split(strings.TrimSpace(m), "\n"); len(lines) != 3 || !strings.Contains(lines[1], "data") {
		t.Errorf("map %q, want hole, data, hole", m)
	}
}

func TestRealClientRefusesOldstyleFixedOnly(t *testing.T) {
	s := serve(t, Negotiation{Refuse: map[uint32]uint32{OptGo: RepErrPolicy, OptInfo: RepErrPolicy}})
	if r := Run(t, 10*time.Second, "nbdinfo", "--size", s.URI("")); r.Err == nil {
		t.Errorf("nbdinfo got in: %v", r)
	}
}

func TestRealClientSeesLies(t *testing.T) {
	for name, f := range map[string]Fault{"wrong cookie": {Cookie: 1}, "cut": {Cut: true, CutAfter: 20}, "errno": {Errno: EIO}} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Negotiation{})
			s.AddRule(Rule{Match: Op(CmdRead), Fault: f})
			if r := Run(t, 20*time.Second, "nbdcopy", s.URI(""), filepath.Join(t.TempDir(), "x")); r.Err == nil {
				t.Errorf("nbdcopy believed it: %v", r)
			}
		})
	}
}

func TestFioAgainstServer(t *testing.T) {
	s := StartServer(t, ServerOptions{Exports: []Export{{Disk: NewDisk(8 << 20)}}})
	res := Fio(t, 0, s.URI(""), "--rw=randwrite", "--bs=4k", "--size=1M", "--iodepth=8", "--verify=crc32c", "--randrepeat=1")
	if res.WriteIOs != 256 || res.ReadIOs != 256 || res.Errors != 0 {
		t.Errorf("fio did %d writes and %d reads with %d errors", res.WriteIOs, res.ReadIOs, res.Errors)
	}
}

func TestProcessOutputAndTimeout(t *testing.T) {
	r := Run(t, 50*time.Millisecond, "sleep", "60")
	if r.Err == nil || !strings.Contains(r.String(), "killed after 50ms") {
		t.Errorf("a program beyond its time: %v", r)
	}
	r = Run(t, 0, "sh", "-c", "echo out; echo err >&2; exit 3")
	if r.Stdout != "out\n" || r.Stderr != "err\n" || r.Err == nil {
		t.Errorf("captured %v", r)
	}
	w := &tail{}
	fmt.Fprint(w, strings.Repeat("x", maxOutput), "end")
	if s := w.String(); len(s) != maxOutput || !strings.HasSuffix(s, "end") {
		t.Errorf("kept %d bytes", len(s))
	}
}

// TestRequireSkipsButNotInCI runs itself, because a skip cannot be caught.
func TestRequireSkipsButNotInCI(t *testing.T) {
	if os.Getenv("NBDTEST_REQUIRE") != "" {
		Require(t, "no-such-program", "no-such-package")
		return
	}
	for ci, want := range map[string]string{"": "--- SKIP", "true": "--- FAIL"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRequireSkipsButNotInCI$", "-test.v")
		cmd.Env = append(os.Environ(), "NBDTEST_REQUIRE=1", "CI="+ci)
		out, _ := cmd.CombinedOutput()
		if !bytes.Contains(out, []byte(want)) || !bytes.Contains(out, []byte("apt-get install no-such-package")) {
			t.Errorf("CI=%q: %s", ci, out)
		}
	}
}
