// Package recording keeps what crosses the seam of a plugin's connections in a
// file, and replays it: any version of the plugin is handed the same events, and
// its actions are held against those that were recorded (package compare).
//
// # The file
//
// All integers are little endian. A file begins with
//
//	 0  "beRECORD"
//	 8  u16  format, 1; another one is refused
//	10  u16  minor format; a greater one only adds kinds of records, and fields at
//	         the end of them
//	12  u32  n, length of the header
//	16  u32  CRC32C of the header
//	20  n bytes: the header, JSON (type Header)
//
// and goes on with records:
//
//	 0  u32  n, length of what follows the checksum
//	 4  u32  CRC32C of it
//	 8  u8   kind
//	 9  u8   flags
//	10  u16  0
//	12  u32  connection: its number in this file, from 1; 0: of all
//	16  u64  ns since the recording began
//	24  n-16 bytes, by kind
//
// The kinds:
//
//	1  Begin    u32 number in the session, u32 reactor, u32 a, u32 b; a bytes: the
//	            Opened event; b bytes: the Limits action that goes with it. Flag 1:
//	            the connection was joined while it was in use; the event then holds
//	            the state that the plugin has saved.
//	2  Events   event records of one call (sdk/abi)
//	3  Actions  the action records that answered. Flag 2: then the plugin has
//	            trapped. Flag 4: the plugin's words follow the last record.
//	4  Closed   the connection has ended, or another version went on with it, or its
//	            login is over: it goes on under another number, joined
//	5  Lost     text: nothing more of the connection was kept, and why
//	6  End      JSON (type Trailer): the last record of a file that is whole
//
// The records of a connection are in order, those of different ones are not. A
// connection that is made while it is recorded has two numbers: its login is one,
// and what follows, from the state that the plugin has saved then, is another. So a
// version whose login differs can still be compared in what follows.
//
// # What is left out
//
// Payload. A plugin that does not transform payload never sees it, but windows
// of the received stream reach into it: of those only what the plugin has
// consumed is kept, and what it has asked to see next. Of a plugin that
// transforms payload all bytes that it is handed or hands out may be payload:
// unless the recording was asked for them, Received, Payload, Send and Data have
// bit 15 of their Flags set, and in the place of their bytes a hash of 8 bytes,
// with a key that nobody keeps. Such a recording shows what happened, and cannot
// be replayed.
//
// Secrets. The values of options that the manifest calls secret are replaced by
// as many stars, wherever they stand as they are. What a plugin derives from a
// secret, or keeps of it in its saved state in another form, cannot be
// recognised: the file is made for its owner's eyes only.
package recording
