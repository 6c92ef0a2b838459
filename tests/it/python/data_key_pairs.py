"""Data key pairs: made in software, their private half encrypted under a key in the token."""

import json

import boto3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from support import Server, main, refused

SPECS = {
    "RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096, "ECC_NIST_P256": "secp256r1", "ECC_NIST_P384": "secp384r1",
    "ECC_NIST_P521": "secp521r1", "ECC_SECG_P256K1": "secp256k1", "ECC_NIST_EDWARDS25519": None}


def _check_pair(spec, private_der, public_der):
    """The two halves are of the kind that was asked for, and of each other."""
    private, public = load_der_private_key(private_der, None), load_der_public_key(public_der)
    if isinstance(private, rsa.RSAPrivateKey):
        assert private.key_size == SPECS[spec] and public.public_numbers().e == 65537
        public.verify(private.sign(b"m", padding.PKCS1v15(), hashes.SHA256()), b"m", padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        assert private.curve.name == SPECS[spec]
        public.verify(private.sign(b"m", ec.ECDSA(hashes.SHA256())), b"m", ec.ECDSA(hashes.SHA256()))
    else:
        assert isinstance(private, ed25519.Ed25519PrivateKey) and SPECS[spec] is None
        public.verify(private.sign(b"m"), b"m")


def a_pair_of_every_spec_decrypts_to_what_was_given_in_clear():
    with Server() as s:
        kms = s.client("kms")
        key = kms.create_key()["KeyMetadata"]
        context = {"purpose": "pair"}
        for spec in SPECS:
            made = kms.generate_data_key_pair(KeyId=key["KeyId"], KeyPairSpec=spec, EncryptionContext=context)
            assert made["KeyId"] == key["Arn"] and made["KeyPairSpec"] == spec and len(made["KeyMaterialId"]) == 64
            _check_pair(spec, made["PrivateKeyPlaintext"], made["PublicKey"])
            opened = kms.decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"], EncryptionContext=context)
            assert opened["Plaintext"] == made["PrivateKeyPlaintext"]
            closed = kms.generate_data_key_pair_without_plaintext(
                KeyId=key["KeyId"], KeyPairSpec=spec, EncryptionContext=context)
            assert "PrivateKeyPlaintext" not in closed and closed["PublicKey"] != made["PublicKey"]
            opened = kms.decrypt(CiphertextBlob=closed["PrivateKeyCiphertextBlob"], EncryptionContext=context)
            _check_pair(spec, opened["Plaintext"], closed["PublicKey"])
        refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=made["PrivateKeyCiphertextBlob"])
        out = s.aws("kms generate-data-key-pair --key-pair-spec ECC_NIST_P256 --key-id", key["KeyId"])
        assert {"PrivateKeyCiphertextBlob", "PrivateKeyPlaintext", "PublicKey", "KeyId", "KeyPairSpec"} <= set(out)


def what_gets_no_pair_is_told_why():
    with Server() as s:
        kms = s.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        mac = kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")["KeyMetadata"]["KeyId"]
        for call in kms.generate_data_key_pair, kms.generate_data_key_pair_without_plaintext:
            refused("DryRunOperationException", call, KeyId=key, KeyPairSpec="RSA_4096", DryRun=True)
            refused("UnsupportedOperationException", call, KeyId=key, KeyPairSpec="SM2")
            refused("ValidationException", call, KeyId=key, KeyPairSpec="RSA_1024")
            refused("InvalidKeyUsageException", call, KeyId=mac, KeyPairSpec="RSA_2048")
            refused("NotFoundException", call, KeyId="alias/none", KeyPairSpec="RSA_2048")
        kms.disable_key(KeyId=key)
        refused("DisabledException", kms.generate_data_key_pair, KeyId=key, KeyPairSpec="RSA_2048")
        kms.enable_key(KeyId=key)
        kms.schedule_key_deletion(KeyId=key)
        refused("KMSInvalidStateException", kms.generate_data_key_pair, KeyId=key, KeyPairSpec="RSA_2048")


def policies_and_grants_name_the_pair():
    with Server() as s:
        kms, iam = s.client("kms"), s.client("iam")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        user = iam.create_user(UserName="ann")["User"]["Arn"]
        access = iam.create_access_key(UserName="ann")["AccessKey"]
        ann = boto3.session.Session().client(
            "kms", endpoint_url=s.endpoint, region_name=s.region, aws_access_key_id=access["AccessKeyId"],
            aws_secret_access_key=access["SecretAccessKey"])
        iam.put_user_policy(UserName="ann", PolicyName="pairs", PolicyDocument=json.dumps({
            "Version": "2012-10-17", "Statement": [{
                "Effect": "Allow", "Action": "kms:GenerateDataKeyPair", "Resource": "*",
                "Condition": {"StringEquals": {"kms:DataKeyPairSpec": "ECC_NIST_P256"}}}]}))
        ann.generate_data_key_pair(KeyId=key, KeyPairSpec="ECC_NIST_P256")
        refused("AccessDeniedException", ann.generate_data_key_pair, KeyId=key, KeyPairSpec="ECC_NIST_P384")
        without = ann.generate_data_key_pair_without_plaintext
        refused("AccessDeniedException", without, KeyId=key, KeyPairSpec="ECC_NIST_P256")
        kms.create_grant(KeyId=key, GranteePrincipal=user, Operations=["GenerateDataKeyPairWithoutPlaintext"],
                         Constraints={"EncryptionContextSubset": {"for": "ann"}})
        without(KeyId=key, KeyPairSpec="ECC_NIST_P384", EncryptionContext={"for": "ann"})
        refused("AccessDeniedException", without, KeyId=key, KeyPairSpec="ECC_NIST_P384")


main(globals())
