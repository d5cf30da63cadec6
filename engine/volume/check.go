package volume

import "blockengine/sdk/block"

// refuse validates a guest's request and cleans its flags. It gives the errno
// of a request that must not go on. The errnos are those that the NBD text
// asks for: EPERM for writing to a read-only disk, ENOSPC for writing beyond
// its end, EINVAL for the rest.
func (l *lane) refuse(io *IO, info *block.Info) block.Status {
	if !io.Op.Valid() {
		return block.EINVAL
	}
	if State(l.v.state.Load()) == Stopped {
		return block.EIO
	}
	io.Flags &= allowedFlags[io.Op]
	if io.Op == block.OpFlush {
		io.Offset, io.Length = 0, 0
		return block.OK
	}
	if io.Op.Modifies() && (io.queue.readOnly || info.Has(block.CapReadOnly)) {
		return block.EPERM
	}
	if io.Offset > info.Size || io.Length > info.Size-io.Offset {
		if io.Op == block.OpWrite || io.Op == block.OpWriteZeroes {
			return block.ENOSPC
		}
		return block.EINVAL
	}
	mask := uint64(info.BlockSize) - 1
	if (io.Offset|io.Length)&mask != 0 || io.Length == 0 {
		return block.EINVAL // rule 6: no read-modify-write
	}
	if io.Op.HasPayload() && !l.carries(io, info) {
		return block.EINVAL
	}
	if io.Op == block.OpBlockStatus && cap(io.Extents) == 0 {
		return block.EINVAL
	}
	return block.OK
}

// allowedFlags says which flags mean something; others are dropped, as they
// are no more than refinements.
var allowedFlags = [block.MaxOp + 1]block.Flags{
	block.OpWrite:       block.FUA,
	block.OpDiscard:     block.FUA,
	block.OpWriteZeroes: block.FUA | block.NoHole | block.FastZero,
	block.OpBlockStatus: block.OneExtent,
}

// carries reports whether io has the payload that it says.
func (l *lane) carries(io *IO, info *block.Info) bool {
	if io.Fixed {
		return io.Data == nil && io.Length <= min(l.fixedMax, inOnePiece(info))
	}
	return io.Length <= MaxTransfer && adds(io.Data, io.Length)
}

func adds(segs [][]byte, length uint64) bool {
	if len(segs) == 1 {
		return uint64(len(segs[0])) == length
	}
	sum := uint64(0)
	for _, s := range segs {
		sum += uint64(len(s))
	}
	return sum == length
}
