"""What QEMU's migration bytes are, without any I/O.

    stream  := "QEVM" be32 3  [configuration]  { element }  00  [06 be32 len json[len]]
    element := START | PART | END | FULL | COMMAND
    START/FULL := type be32 section_id u8 n idstr[n] be32 instance_id be32 version_id <payload> footer
    PART/END   := type be32 section_id <payload> footer
    footer     := 7e be32 section_id
    COMMAND    := 08 be16 command be16 len data[len]

Everything here would be true if no proxy existed. What is changed, and when, is decided in ``proxyd``.
The reference is QEMU's ``migration/savevm.c``; ``docs/stream-format.md`` has the tables.

**Conservation**: for every stream and every chunking, the concatenation of the events' ``raw`` bytes is the
input, byte for byte. The tests execute this sentence.
"""
