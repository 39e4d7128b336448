//! The four encoders as one.
//!
//! Levels and windows are chosen for a proxy's load: most of what the best would save, at the
//! pace of the network, in memory that thousands of responses at once may have. Figures are in
//! docs/decisions/0043-responses-are-compressed-as-they-come.md.

use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use zstd::stream::write::Encoder as ZstdEncoder;

use super::choice::Coding;

const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: i32 = 3;
const DEFLATE_LEVEL: u32 = 3;
/// Powers of two; a response holds some of these.
const ZSTD_WINDOW: u32 = 18;
const BROTLI_WINDOW: i32 = 17;
const BROTLI_BUFFER: usize = 4096;

/// Takes plain bytes and keeps what they have become until it is taken.
pub(super) enum Encoder {
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
}

impl Encoder {
    /// For a body of this length, if that is known.
    pub(super) fn new(coding: Coding, length: Option<u64>) -> io::Result<Self> {
        let level = Compression::new(DEFLATE_LEVEL);
        Ok(match coding {
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW)?;
                encoder.set_pledged_src_size(length)?;
                Encoder::Zstd(encoder)
            }
            Coding::Brotli => {
                let known = length.and_then(|length| usize::try_from(length).ok());
                let parameters = BrotliEncoderParams {
                    quality: BROTLI_QUALITY,
                    lgwin: BROTLI_WINDOW,
                    size_hint: known.unwrap_or_default(),
                    ..BrotliEncoderParams::default()
                };
                let writer = CompressorWriter::with_params(Vec::new(), BROTLI_BUFFER, &parameters);
                Encoder::Brotli(Box::new(writer))
            }
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), level)),
            Coding::Deflate => Encoder::Deflate(ZlibEncoder::new(Vec::new(), level)),
        })
    }

    pub(super) fn write(&mut self, plain: &[u8]) -> io::Result<()> {
        self.writer().write_all(plain)
    }

    /// All that was written can be read by who has what was taken.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }

    /// What has come out and was not taken yet.
    pub(super) fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Deflate(encoder) => encoder.get_mut(),
        }
    }

    /// The rest.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Deflate(encoder) => encoder.finish(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Zstd(encoder) => encoder,
            Encoder::Brotli(encoder) => encoder,
            Encoder::Gzip(encoder) => encoder,
            Encoder::Deflate(encoder) => encoder,
        }
    }
}
