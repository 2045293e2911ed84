//! SCRAM (RFC 5802, RFC 7677) from the client's side, without channel binding: both sides prove that they know the password, and it
//! does not travel.
//!
//! Names and passwords are taken as they are, without `SASLprep`: Kafka's brokers and its other clients do not apply it either.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{digest, hmac, pbkdf2, rand::SecureRandom as _};

/// The hash function of a mechanism.
#[derive(Clone, Copy)]
pub(crate) struct Hash {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

impl Hash {
    pub(crate) fn sha256() -> Self {
        Self { digest: &digest::SHA256, hmac: hmac::HMAC_SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 }
    }

    pub(crate) fn sha512() -> Self {
        Self { digest: &digest::SHA512, hmac: hmac::HMAC_SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512 }
    }

    fn hmac(self, key: &[u8], text: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(self.hmac, key), text)
    }
}

/// Fewer iterations than the standard allows would let a false broker guess the password from the proof.
const FEWEST: u32 = 4_096;
/// More would keep a processor busy for seconds on a broker's word; Kafka itself allows as many.
const MOST: u32 = 16_384;

/// The client after its first message.
pub(crate) struct Client<'a> {
    hash: Hash,
    password: &'a str,
    nonce: String,
    first_bare: String,
}

/// The client after its last message: knows what the broker must answer.
pub(crate) struct Finished {
    signature: Vec<u8>,
}

/// 128 random bits; without a source of randomness nothing can be proved.
pub(crate) fn nonce() -> Result<String, String> {
    let mut random = [0; 16];
    let filled = ring::rand::SystemRandom::new().fill(&mut random);
    filled.map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(BASE64.encode(random))
}

impl<'a> Client<'a> {
    /// The client and its first message.
    pub(crate) fn first(hash: Hash, username: &str, password: &'a str, nonce: String) -> (Self, String) {
        let username = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={username},r={nonce}");
        let message = format!("n,,{first_bare}");
        (Self { hash, password, nonce, first_bare }, message)
    }

    /// Answers the broker's first message with the proof.
    ///
    /// # Errors
    /// What the broker said and should not have.
    pub(crate) fn last(self, server_first: &str) -> Result<(Finished, String), String> {
        let field = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let missing = || "its first message is not one of SCRAM".to_owned();
        let nonce = field("r=").ok_or_else(missing)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("it answers another login".to_owned());
        }
        let salt = BASE64.decode(field("s=").ok_or_else(missing)?).map_err(|_| missing())?;
        let iterations: u32 = field("i=").and_then(|number| number.parse().ok()).ok_or_else(missing)?;
        if !(FEWEST..=MOST).contains(&iterations) {
            return Err(format!("it asks for {iterations} iterations; {FEWEST} to {MOST} are accepted"));
        }
        let Hash { digest, pbkdf2, .. } = self.hash;
        let mut salted = vec![0; digest.output_len()];
        let iterations = NonZeroU32::new(iterations).ok_or_else(missing)?;
        pbkdf2::derive(pbkdf2, iterations, &salt, self.password.as_bytes(), &mut salted);
        let without_proof = format!("c=biws,r={nonce}"); // biws: "n,,", no channel binding
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);
        let key = self.hash.hmac(&salted, b"Client Key");
        let stored = digest::digest(digest, key.as_ref());
        let signature = self.hash.hmac(stored.as_ref(), signed.as_bytes());
        let proof: Vec<u8> =
            key.as_ref().iter().zip(signature.as_ref()).map(|(key, signature)| key ^ signature).collect();
        let server_key = self.hash.hmac(&salted, b"Server Key");
        let signature = self.hash.hmac(server_key.as_ref(), signed.as_bytes()).as_ref().to_vec();
        Ok((Finished { signature }, format!("{without_proof},p={}", BASE64.encode(proof))))
    }
}

impl Finished {
    /// Whether the broker knows the password, too.
    ///
    /// # Errors
    /// What it said instead of its proof.
    pub(crate) fn check(&self, server_last: &str) -> Result<(), String> {
        let signature = server_last.split(',').find_map(|part| part.strip_prefix("v="));
        let proved = signature.and_then(|proof| BASE64.decode(proof).ok()).is_some_and(|proof| proof == self.signature);
        if proved { Ok(()) } else { Err("it could not prove that it knows the password itself".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    const FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn client() -> Client<'static> {
        let (client, first) = Client::first(Hash::sha256(), "user", "pencil", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        client
    }

    #[test]
    fn the_example_of_the_standard() {
        let (finished, last) = client().last(FIRST).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(finished.check("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        for other in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "v=", "", "e=other-error"] {
            assert!(finished.check(other).unwrap_err().contains("prove"), "{other}");
        }
    }

    #[test]
    fn a_broker_that_does_not_keep_to_the_standard_gets_no_proof() {
        let cases = [
            (FIRST.replace("rOpr", "xxxx"), "another login"),
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".into(), "another login"),
            (FIRST.replace("4096", "1"), "asks for 1 iterations"),
            (FIRST.replace("4096", "100000000"), "iterations"),
            (FIRST.replace("s=W22", "s=!"), "not one of SCRAM"),
            (String::new(), "not one of SCRAM"),
        ];
        for (first, words) in cases {
            let refusal = client().last(&first).err().unwrap();
            assert!(refusal.contains(words), "{first}: {refusal}");
        }
    }

    #[test]
    fn names_with_the_signs_of_the_format_are_escaped() {
        let (_, first) = Client::first(Hash::sha512(), "a=b,c", "", "x".into());
        assert_eq!(first, "n,,n=a=3Db=2Cc,r=x");
    }
}
