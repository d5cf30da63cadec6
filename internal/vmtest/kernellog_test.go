package vmtest

import (
	"slices"
	"testing"
)

func TestRecords(t *testing.T) {
	got := records("6,339,5140900,-;NET: Registered; family 16\n" +
		" SUBSYSTEM=block\n DEVICE=b253:0\n" +
		"30,340,5690716,c;udevd[80]: starting\nnonsense\nx,1,1,-;no number\n")
	want := []Record{{6, "NET: Registered; family 16"}, {6, "udevd[80]: starting"}}
	if !slices.Equal(got, want) {
		t.Errorf("records %+v, want %+v", got, want)
	}
}

func TestTroubles(t *testing.T) {
	bad := []Record{
		{3, "anything at all"},
		{4, "EXT4-fs error (device vda1): ext4_lookup:1855: inode #2"},
		{4, "EXT4-fs warning (device vda1): ext4_end_bio:343: I/O error 10"},
		{4, "XFS (vda2): Corruption detected. Unmount and run xfs_repair"},
		{4, "XFS (vda2): metadata I/O error in xfs_da_read_buf"},
		{5, "I/O error, dev vda, sector 8 op 0x1:(WRITE) flags 0x0"},
		{6, "critical target error, dev vda, sector 0"},
		{4, "INFO: task fio:301 blocked for more than 120 seconds."},
		{4, "WARNING: CPU: 0 PID: 1 at block/blk-mq.c:1"},
		{4, "Buffer I/O error on dev vda, logical block 0, lost async page write"},
	}
	good := []Record{
		{4, "hpet: Lost 2 RTC interrupts"},
		{4, "mtrr: your CPUs had inconsistent MTRRdefType settings"},
		{6, "EXT4-fs (vda1): mounted filesystem 01c1 r/w with ordered data mode"},
		{5, "XFS (vda2): Mounting V5 Filesystem"},
		{5, "virtio_blk virtio1: [vda] new size: 2097152 512-byte logical blocks"},
	}
	if got := Troubles(append(slices.Clone(bad), good...)); !slices.Equal(got, bad) {
		t.Errorf("troubles are\n%+v, want\n%+v", got, bad)
	}
}
