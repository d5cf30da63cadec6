package nbdtest

import (
	"errors"
	"fmt"
	"hash/crc64"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Recorder keeps a history of reads and writes of a disk and judges whether it
// could have happened: each block is a register, every write carries a value of
// its own, and the operations on a block must be linearisable.
//
// A write that failed, or whose outcome is unknown, may take effect at any time
// from its invocation to the end of the history, or never. An acknowledged one
// has taken effect when it returned.
//
// A block is the unit that the storage promises to write in one piece; choose
// 512 where it promises no more. All methods are safe for concurrent use. Trim
// is not modelled (its result is unspecified); use BeginZero where the storage
// promises zeroes.
type Recorder struct {
	run       uint64 // told apart from stamps of other histories on the same disk
	blockSize int

	mu     sync.Mutex
	clock  int64
	seq    uint64
	ops    []*HistoryOp
	broken []string // what needs no model to be wrong
}

// Kinds of operation in a history.
const (
	opRead = iota
	opWrite
)

// HistoryOp is one operation on one or more blocks; it must end with one of its
// methods OK, Unknown, Fail, Data.
type HistoryOp struct {
	r       *Recorder
	client  int
	kind    int
	first   uint64
	values  []uint64 // per block: written, or seen by a read; 0: zeroes
	call    int64
	ret     int64 // 0: not returned
	failed  bool  // of unknown outcome
	payload []byte
}

const (
	stampMagic = 0x6e62645354414d50
	stampSize  = 40 // magic, run, block, value, checksum: 8 bytes each
	// stampEvery is the distance of the copies of the stamp within a block.
	stampEvery = 512
)

var stampTable = crc64.MakeTable(crc64.ECMA)

// NewRecorder starts a history of blocks of blockSize bytes, a multiple of 512.
// run tells its stamps from those of others (any number).
func NewRecorder(blockSize int, run uint64) *Recorder {
	if blockSize <= 0 || blockSize%stampEvery != 0 {
		panic(fmt.Sprintf("nbdtest: block size %d is not a multiple of %d", blockSize, stampEvery))
	}
	return &Recorder{blockSize: blockSize, run: run}
}

// BlockSize in bytes.
func (r *Recorder) BlockSize() int { return r.blockSize }

func (r *Recorder) tick() int64 {
	r.clock++
	return r.clock
}

func (r *Recorder) begin(op *HistoryOp) *HistoryOp {
	op.r = r
	op.call = r.tick()
	r.ops = append(r.ops, op)
	return op
}

// BeginWrite notes a write of n blocks from first by a client (a number for the
// report) and makes its payload, see Payload.
func (r *Recorder) BeginWrite(client int, first uint64, n int) *HistoryOp {
	r.mu.Lock()
	defer r.mu.Unlock()
	op := &HistoryOp{client: client, kind: opWrite, first: first}
	for i := range n {
		r.seq++
		op.values = append(op.values, r.seq)
		op.payload = r.stamp(op.payload, first+uint64(i), r.seq)
	}
	return r.begin(op)
}

// BeginZero notes a write of zeroes to n blocks from first.
func (r *Recorder) BeginZero(client int, first uint64, n int) *HistoryOp {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begin(&HistoryOp{client: client, kind: opWrite, first: first, values: make([]uint64, n)})
}

// BeginRead notes a read of n blocks from first.
func (r *Recorder) BeginRead(client int, first uint64, n int) *HistoryOp {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begin(&HistoryOp{client: client, kind: opRead, first: first, values: make([]uint64, n)})
}

// stamp appends a block that tells what it is in each of its sectors.
func (r *Recorder) stamp(b []byte, block, value uint64) []byte {
	for range r.blockSize / stampEvery {
		start := len(b)
		for _, v := range []uint64{stampMagic, r.run, block, value} {
			b = be.AppendUint64(b, v)
		}
		b = be.AppendUint64(b, crc64.Checksum(b[start:], stampTable))
		b = append(b, make([]byte, stampEvery-stampSize)...)
	}
	return b
}

// unstamp reads a block back; 0 is a block of zeroes.
func (r *Recorder) unstamp(b []byte, block uint64) (uint64, error) {
	if isZero(b) {
		return 0, nil
	}
	var values []uint64 // of the sectors
	for at := 0; at < len(b); at += stampEvery {
		s := b[at : at+stampEvery]
		switch {
		case be.Uint64(s) != stampMagic || be.Uint64(s[32:]) != crc64.Checksum(s[:32], stampTable) || !isZero(s[stampSize:]):
			return 0, fmt.Errorf("sector %d of block %d holds garbage", at/stampEvery, block)
		case be.Uint64(s[8:]) != r.run:
			return 0, fmt.Errorf("block %d holds data of another run (%#x)", block, be.Uint64(s[8:]))
		case be.Uint64(s[16:]) != block:
			return 0, fmt.Errorf("block %d holds what was written to block %d", block, be.Uint64(s[16:]))
		}
		values = append(values, be.Uint64(s[24:]))
	}
	if kinds := slices.Compact(slices.Clone(values)); len(kinds) > 1 {
		return 0, fmt.Errorf("block %d is torn: its sectors hold the values %d%s", block, values, r.writers(block, kinds))
	}
	return values[0], nil
}

// writers tells of the writes of values to a block by whom and when they were
// made, on the clock of calls and returns.
func (r *Recorder) writers(block uint64, values []uint64) string {
	var b strings.Builder
	for _, op := range r.ops {
		if i := block - op.first; op.kind == opWrite && i < uint64(len(op.values)) && slices.Contains(values, op.values[i]) {
			fmt.Fprintf(&b, "; value %d was written by client %d, called %d returned %d", op.values[i], op.client, op.call, op.ret)
		}
	}
	return b.String()
}

// Payload is what a BeginWrite is to write; nil for zeroes.
func (op *HistoryOp) Payload() []byte { return op.payload }

// Offset in bytes of the operation.
func (op *HistoryOp) Offset() uint64 { return op.first * uint64(op.r.blockSize) }

// Length in bytes of the operation.
func (op *HistoryOp) Length() uint64 { return uint64(len(op.values) * op.r.blockSize) }

func (op *HistoryOp) end(failed bool) {
	if op.ret != 0 {
		panic("nbdtest: an operation of a history ended twice")
	}
	op.ret, op.failed = op.r.tick(), failed
}

// OK notes that a write was acknowledged.
func (op *HistoryOp) OK() {
	op.r.mu.Lock()
	defer op.r.mu.Unlock()
	op.end(false)
}

// Unknown notes that it is not known whether an operation took effect.
func (op *HistoryOp) Unknown() {
	op.r.mu.Lock()
	defer op.r.mu.Unlock()
	op.end(true)
}

// Fail notes an error: for a write the same as Unknown, for a read that it saw
// nothing.
func (op *HistoryOp) Fail() { op.Unknown() }

// Data notes what a read returned. What no write can have left there is an error
// at once, and in the verdict of Check too.
func (op *HistoryOp) Data(b []byte) error {
	r := op.r
	r.mu.Lock()
	defer r.mu.Unlock()
	op.end(false)
	if len(b) != len(op.values)*r.blockSize {
		op.failed = true
		return r.breakage(op, fmt.Errorf("returned %d bytes of %d", len(b), len(op.values)*r.blockSize))
	}
	var errs []error
	for i := range op.values {
		block := op.first + uint64(i)
		v, err := r.unstamp(b[i*r.blockSize:(i+1)*r.blockSize], block)
		if err != nil {
			errs = append(errs, r.breakage(op, err))
		}
		op.values[i] = v
	}
	op.failed = len(errs) > 0
	return errors.Join(errs...)
}

func (r *Recorder) breakage(op *HistoryOp, err error) error {
	err = fmt.Errorf("read by client %d of %d blocks from %d, called %d returned %d: %w",
		op.client, len(op.values), op.first, op.call, op.ret, err)
	r.broken = append(r.broken, err.Error())
	return err
}

// registerOp is one block of a HistoryOp, for the checker.
type registerOp struct {
	write bool
	value uint64
}

// register is the sequential specification: a read sees the last write. Disks
// begin as zeroes, which is value 0.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(registerOp); in.write {
			return true, in.value
		}
		return output.(uint64) == state.(uint64), state
	},
}

// Check judges the history so far. Operations that have not ended count as of
// unknown outcome. The error lists, per block, the operations that fit no order;
// running out of time is an error too.
func (r *Recorder) Check(timeout time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := make([]error, 0, len(r.broken))
	for _, b := range r.broken {
		errs = append(errs, errors.New(b))
	}
	deadline := time.Now().Add(timeout)
	for block, ops := range r.perBlock() {
		left := time.Until(deadline)
		if left <= 0 {
			return errors.Join(append(errs, fmt.Errorf("history not judged within %v", timeout))...)
		}
		switch porcupine.CheckOperationsTimeout(register, ops, left) {
		case porcupine.Illegal:
			errs = append(errs, fmt.Errorf("block %d: no order of its operations explains what was read:\n%s", block, describe(ops)))
		case porcupine.Unknown:
			errs = append(errs, fmt.Errorf("block %d: not judged within %v", block, timeout))
		}
	}
	return errors.Join(errs...)
}

// MustCheck fails t unless the history is sound.
func (r *Recorder) MustCheck(t testing.TB) {
	t.Helper()
	if err := r.Check(30 * time.Second); err != nil {
		t.Errorf("nbdtest: %v", err)
	}
}

// perBlock splits the history into registers. Writes of unknown outcome return
// at the end of time; those whose value nobody saw are left out, which changes
// no verdict (they can always be ordered last) and keeps the search small.
func (r *Recorder) perBlock() map[uint64][]porcupine.Operation {
	seen := map[uint64]map[uint64]bool{}
	for _, op := range r.ops {
		for i, v := range op.values {
			if op.kind == opRead && op.ret != 0 && !op.failed {
				block := op.first + uint64(i)
				if seen[block] == nil {
					seen[block] = map[uint64]bool{}
				}
				seen[block][v] = true
			}
		}
	}
	all := map[uint64][]porcupine.Operation{}
	for _, op := range r.ops {
		for i, v := range op.values {
			block, unknown := op.first+uint64(i), op.ret == 0 || op.failed
			if unknown && (op.kind == opRead || !seen[block][v]) {
				continue
			}
			o := porcupine.Operation{ClientId: op.client, Call: op.call, Return: op.ret,
				Input: registerOp{op.kind == opWrite, v}, Output: v}
			if unknown {
				o.Return = math.MaxInt64
			}
			all[block] = append(all[block], o)
		}
	}
	return all
}

// describe lists a register's operations by time of call.
func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	const most = 60
	var b strings.Builder
	for i, o := range ops {
		if i == most {
			fmt.Fprintf(&b, "  … and %d more\n", len(ops)-most)
			break
		}
		verb := "read "
		if o.Input.(registerOp).write {
			verb = "write"
		}
		ret := fmt.Sprint(o.Return)
		if o.Return == math.MaxInt64 {
			ret = "?"
		}
		fmt.Fprintf(&b, "  client %d %s value %d  called %d returned %s\n", o.ClientId, verb, o.Output, o.Call, ret)
	}
	return b.String()
}
